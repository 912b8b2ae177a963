"""Is the task or its training at fault?"""
