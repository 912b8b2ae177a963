"""What is done with a task or a run beside training. No tool uses another one."""
