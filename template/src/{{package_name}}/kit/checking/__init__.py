"""What `check` is made of. The template's: not for editing.

`jaxprs` reads a traced program; `tracing` and `running` look at an environment; `seen` puts it all
together, stage by stage; `rules` judges it.
"""
