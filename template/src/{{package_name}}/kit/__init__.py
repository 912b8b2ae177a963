"""Checker, PPO, networks, wrappers, run folders and command line.

From the template: changes of yours are kept, `copier update` merges new versions in.

Nothing here imports your files: the environment, settings and networks arrive as arguments.
"""

import contextlib
import io

# Brax imports MuJoCo's mjx, which prints two lines about a package that is not needed.
with contextlib.redirect_stdout(io.StringIO()):
    from brax.envs import register_environment

__all__ = ["register_environment"]
