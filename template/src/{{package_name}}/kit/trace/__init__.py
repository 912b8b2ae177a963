"""What a traced function reads, draws and computes."""
