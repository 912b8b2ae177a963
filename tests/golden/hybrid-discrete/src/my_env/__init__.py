"""The my-env environment. The template's: not for editing.

Once this package is imported, Brax makes one by the package's name:
`brax.envs.get_environment("my_env")`.
"""

from . import kit  # first, because it keeps what Brax imports from printing
from .env import MyEnv

__all__ = ["MyEnv"]

kit.register_environment(
    "my_env",
    MyEnv,
)
