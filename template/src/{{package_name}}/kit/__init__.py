"""What your files, notebooks and tests import: `from .kit import PPOConfig, Task`.

The names below are promised. Everything else in this folder may move with any update.
"""

import contextlib
import importlib
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .check import RULES as RULES  # the rules of `check`
    from .check import Report as Report  # what `examine` gives
    from .check import examine as examine  # checks a task or an environment
    from .env.actions import Continuous as Continuous  # actions: n numbers in [-1, 1]
    from .env.actions import Discrete as Discrete  # one of n choices
    from .env.actions import MultiDiscrete as MultiDiscrete  # several choices at once
    from .env.actions import action_space_of as action_space_of  # that of an environment
    from .env.episodes import Policy as Policy  # policy(obs, key) -> (action, extras)
    from .env.episodes import random_policy as random_policy  # ignores the observation
    from .env.frames import FrameStack as FrameStack  # observes the last few observations at once
    from .env.physics import render_physics as render_physics  # draws a state of MJX
    from .env.playground import from_playground as from_playground  # MuJoCo Playground's as Brax's
    from .env.playground import to_playground as to_playground  # and the other way round
    from .env.wrappers import wrap_for_evaluation as wrap_for_evaluation  # batch and time limit
    from .env.wrappers import wrap_for_training as wrap_for_training  # auto-reset too
    from .errors import UsageError as UsageError  # an argument, a setting or a run is unusable
    from .ppo.brax_trainers import enable_brax_trainers as enable_brax_trainers  # on JAX 0.10
    from .ppo.networks import make_network_factory as make_network_factory  # policy and value
    from .ppo.settings import PPOConfig as PPOConfig  # settings of PPO
    from .ppo.task import Task as Task  # an environment, its settings and networks
    from .ppo.task import choose as choose  # one of several tasks
    from .ppo.task import tasks_in as tasks_in  # the tasks of config.py
    from .run.cache import use_compilation_cache as use_compilation_cache  # of compiled programs
    from .run.commands import is_command_line as is_command_line  # of this project
    from .run.folder import load_policy as load_policy  # a trained policy
    from .run.registry import register as register  # makes environments known to Brax
    from .run.train import train as train  # trains a task, into a run folder
    from .tools.compare import compare as compare  # an environment beside the one that it ports

_NAMES = {
    "check": ("RULES", "Report", "examine"),
    "env.actions": ("Continuous", "Discrete", "MultiDiscrete", "action_space_of"),
    "env.episodes": ("Policy", "random_policy"),
    "env.frames": ("FrameStack",),
    "env.physics": ("render_physics",),
    "env.playground": ("from_playground", "to_playground"),
    "env.wrappers": ("wrap_for_evaluation", "wrap_for_training"),
    "errors": ("UsageError",),
    "ppo.brax_trainers": ("enable_brax_trainers",),
    "ppo.networks": ("make_network_factory",),
    "ppo.settings": ("PPOConfig",),
    "ppo.task": ("Task", "choose", "tasks_in"),
    "run.cache": ("use_compilation_cache",),
    "run.commands": ("is_command_line",),
    "run.folder": ("load_policy",),
    "run.registry": ("register",),
    "run.train": ("train",),
    "tools.compare": ("compare",),
}


def __getattr__(name: str) -> Any:
    """Imports what defines `name` when it is first used (PEP 562)."""
    for module, names in _NAMES.items():
        if name in names:
            # Brax imports MuJoCo's mjx, which prints two lines about a package that is not needed.
            with contextlib.redirect_stdout(io.StringIO()):
                try:
                    return getattr(importlib.import_module(f".{module}", __name__), name)
                except AttributeError as error:  # Python would say that the name is not there
                    raise ImportError(f"{name} can't be imported: {error}") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [name for names in _NAMES.values() for name in names]
