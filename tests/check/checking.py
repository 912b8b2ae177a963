"""Checks of an environment with some settings of training, in short."""

from typing import Any

from brax.envs.base import Env
from kit.check import Report, Violation, examine
from kit.ppo.settings import PPOConfig
from kit.ppo.task import Task


def check(
    env: Env | type[Env],
    *,
    seed: int = 0,
    time_limit: float = 60.0,
    network_factory: Any = None,
    ignore_rules: tuple[str, ...] = (),
    **settings: Any,
) -> Report:
    settings = {"episode_length": 1000, **settings}
    make = (lambda: env) if isinstance(env, Env) else env
    task = Task(make, PPOConfig(**settings), network_factory, ignore_rules=ignore_rules)
    return examine(task, seed=seed, time_limit=time_limit)


def check_env(env: Env | type[Env], **settings: Any) -> list[Violation]:
    return check(env, **settings).violations
