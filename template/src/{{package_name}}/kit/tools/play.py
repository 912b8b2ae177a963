"""A trained policy beside a random one."""

from dataclasses import dataclass

import jax
import numpy as np

from ..env.episodes import EpisodeSums, Policy, run_episodes
from ..ppo.task import Task


@dataclass(frozen=True)
class Episodes:
    """Returns and lengths of episodes.

    Attributes:
      returns: sums of rewards, (num_episodes,) float32.
      lengths: numbers of steps, (num_episodes,) float32.
    """

    returns: np.ndarray
    lengths: np.ndarray


def evaluate(task: Task, policy: Policy, *, num_episodes: int = 128, seed: int = 0) -> Episodes:
    """Plays whole episodes of a task, without domain randomisation.

    The same seed gives the same episodes.
    """
    env = task.batched(training=False)

    @jax.jit
    def run(seed: jax.Array) -> EpisodeSums:
        return run_episodes(
            env,
            policy,
            jax.random.PRNGKey(seed),
            num_envs=num_episodes,
            num_steps=task.settings.episode_length // task.settings.action_repeat,
        )

    episodes = jax.device_get(run(np.uint32(seed)))
    return Episodes(episodes.metrics["reward"], episodes.steps)
