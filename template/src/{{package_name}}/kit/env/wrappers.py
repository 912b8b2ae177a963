"""Batches of environments: vmap, then episodes, then auto-reset; and stacked observations."""

from collections.abc import Callable
from typing import Any

from brax.envs.base import Env, Wrapper
from brax.envs.wrappers import training

from ..errors import UsageError
from .auto_reset import AutoResetWrapper, RandomisedBatch
from .time_limit import EpisodeWrapper, OneEpisodeWrapper

RandomizationFn = Callable[[Any], tuple[Any, Any]]


def wrap_for_training(
    env: Env,
    episode_length: int = 1000,
    action_repeat: int = 1,
    randomization_fn: RandomizationFn | None = None,
) -> Wrapper:
    """Batches an environment, limits its episodes and starts a new one where one has ended.

    This is what `brax.training.agents.ppo.train` takes as `wrap_env_fn`.

    Args:
      env: one environment, not batched. `env.preserve_info`, a tuple of names, may name entries of
        `info` that auto-reset leaves as they are, for a curriculum for example.
      episode_length: time limit in steps; `info["truncation"]` is 1 where it ended an episode.
      action_repeat: how many steps each action is applied for; rewards and metrics are summed.
      randomization_fn: domain randomisation, as Brax takes it. Each environment of the batch keeps
        its own randomised system in all its episodes.

    Returns:
      A batched environment: `reset` takes keys (batch, 2) uint32, or typed keys (batch,); `step`
      takes actions (batch, ...); each array of the state has shape (batch, ...).
    """
    return AutoResetWrapper(_limit_episodes(env, episode_length, action_repeat, randomization_fn))


def wrap_for_evaluation(
    env: Env,
    episode_length: int = 1000,
    action_repeat: int = 1,
    randomization_fn: RandomizationFn | None = None,
) -> Wrapper:
    """Like `wrap_for_training`, for one episode per environment: nothing is reset after `done`."""
    return OneEpisodeWrapper(_limit_episodes(env, episode_length, action_repeat, randomization_fn))


def _limit_episodes(
    env: Env, episode_length: int, action_repeat: int, randomization_fn: RandomizationFn | None
) -> "EpisodeWrapper":
    if randomization_fn is None:
        batch: Wrapper = training.VmapWrapper(env)
    elif hasattr(env.unwrapped, "sys"):
        batch = RandomisedBatch(env, randomization_fn)
    else:
        name = type(env.unwrapped).__name__
        raise UsageError(
            f"randomization_fn changes env.sys, which {name} does not have: set self.sys in "
            "__init__ to the arrays that reset and step read and that are to differ."
        )
    return EpisodeWrapper(batch, episode_length, action_repeat)
