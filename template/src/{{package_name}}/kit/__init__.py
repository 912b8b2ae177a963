"""The template's part of the package: not for editing, `copier update` keeps it current.

Nothing in here imports anything of yours: the environment, the encoder and the settings come in as
arguments.
"""

import contextlib
import io

# MuJoCo's mjx, which Brax imports, prints two lines about a package that nobody here needs.
with contextlib.redirect_stdout(io.StringIO()):
    from brax.envs import register_environment

__all__ = ["register_environment"]
