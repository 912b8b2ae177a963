"""The environment and its trained policies.

From the template: changes of yours are kept, `copier update` merges new versions in.

Once this package is imported, Brax makes the environment too:
`brax.envs.get_environment("mountain_car")`.
The environment of a second task of config.py has the task's name, as in `get_environment("wide")`.
"""

import os

from .kit import Policy, end_command_line, register  # first: what Brax prints is kept quiet there

try:
    from .env import MountainCar
except Exception as error:
    if isinstance(error, ImportError):
        error.add_note(
            "If you renamed the class in env.py, rename it in __init__.py and config.py."
        )
    end_command_line(error, "mountain-car")
    raise

__all__ = ["MountainCar", "load_policy"]

register(__name__, MountainCar)


def load_policy(
    run: str | os.PathLike[str],
    *,
    steps: int | None = None,
    seed: int | None = None,
    deterministic: bool = True,
) -> Policy:
    """Reads a trained policy.

    Args:
      run: the folder that `train` left.
      steps: which checkpoint, by its number of steps; the newest if None.
      seed: which seed of the run; the one that was best at that checkpoint if None.
      deterministic: take the most likely action; otherwise sample as in training.

    Returns:
      `policy(obs, key) -> (action, extras)`, jitted, for any leading dimensions of `obs`.
    """
    # Imported here, because they take a second that an environment alone does not need.
    from . import config, kit

    tasks = kit.tasks_in(config)
    return kit.load_policy(run, tasks, steps=steps, seed=seed, deterministic=deterministic)
