"""The environment and its trained policies.

From the template: changes of yours are kept, `copier update` merges new versions in.

Once this package is imported, Brax makes the environment of each task of config.py by the task's
name, as in `brax.envs.get_environment("wide")`, and that of the first one by the package's:
`get_environment("mountain_car")`.
"""

import os
from typing import TYPE_CHECKING, Any

from .kit import is_command_line

if TYPE_CHECKING:
    from .env import MountainCar
    from .kit import Policy

__all__ = ["MountainCar", "load_policy"]

# The command line does it too, once its arguments are read: `--help` does not wait for JAX.
if not is_command_line("mountain-car", __name__):
    from .kit import register

    register(__name__)


def __getattr__(name: str) -> Any:
    """Imports the environment when it is first used (PEP 562)."""
    if name != "MountainCar":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .env import MountainCar
    except ImportError as error:
        error.add_note(
            "If you renamed the class in env.py, rename it in __init__.py and config.py."
        )
        raise
    return MountainCar


def load_policy(
    run: str | os.PathLike[str],
    *,
    steps: int | None = None,
    seed: int | None = None,
    deterministic: bool = True,
) -> "Policy":
    """Reads a trained policy.

    Args:
      run: the folder that `train` left.
      steps: which checkpoint, by its number of steps; the newest if None.
      seed: which seed of the run; the one that was best at that checkpoint if None.
      deterministic: take the most likely action; otherwise sample as in training.

    Returns:
      `policy(obs, key) -> (action, extras)`, jitted, for any leading dimensions of `obs`.
    """
    from . import config, kit

    tasks = kit.tasks_in(config)
    return kit.load_policy(run, tasks, steps=steps, seed=seed, deterministic=deterministic)
