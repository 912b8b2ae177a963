"""Running whole episodes: to evaluate, to time and to draw. The template's: not for editing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from brax.envs.base import Env, State
from brax.envs.wrappers.training import EvalMetrics, EvalWrapper
from PIL import Image

from .networks import Actions
from .wrappers import Resets, wrap_for_training

Policy = Callable[[Any, jax.Array], tuple[jax.Array, Any]]


@dataclass(frozen=True)
class Episodes:
    """What episodes came to.

    Attributes:
      returns: sum of rewards, (num_episodes,) float32.
      lengths: in steps, (num_episodes,) float32.
    """

    returns: np.ndarray
    lengths: np.ndarray


def random_policy(actions: Actions, action_size: int) -> Policy:
    """A policy that looks at nothing: uniform in [-1, 1]^n, or over n choices."""

    def policy(obs: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        del obs
        if actions == "discrete":
            return jax.random.randint(key, (), 0, action_size), {}
        return jax.random.uniform(key, (action_size,), minval=-1.0, maxval=1.0), {}

    return policy


def run_episodes(
    env: Env, policy: Policy, key: jax.Array, *, num_envs: int, num_steps: int
) -> EvalMetrics:
    """Plays one episode in each of `num_envs` environments. Pure: to be jitted.

    Args:
      env: wrapped for training, so that it is batched and ends episodes.
      policy: takes one observation and a key, not a batch.
      key: (2,) uint32, consumed.
      num_envs: how many episodes.
      num_steps: enough for the longest of them.

    Returns:
      Brax's sums over each episode, (num_envs,) float32 each.
    """
    env = EvalWrapper(env)
    key_reset, key_steps = jax.random.split(key)

    def step(state: State, key: jax.Array) -> tuple[State, None]:
        action, _ = jax.vmap(policy)(state.obs, jax.random.split(key, num_envs))
        return env.step(state, action), None

    state = env.reset(jax.random.split(key_reset, num_envs))
    state, _ = jax.lax.scan(step, state, jax.random.split(key_steps, num_steps))
    return state.info["eval_metrics"]


def evaluate(
    environment: Env,
    policy: Policy,
    *,
    episode_length: int,
    action_repeat: int = 1,
    num_episodes: int = 128,
    seed: int = 0,
) -> Episodes:
    """Plays `num_episodes` episodes of `environment`, not yet batched; repeats for a seed."""
    # Only the first episode of each counts: no other start is needed.
    env = wrap_for_training(environment, episode_length, action_repeat, resets="cached")

    @jax.jit
    def run(seed: jax.Array) -> EvalMetrics:
        return run_episodes(
            env,
            policy,
            jax.random.PRNGKey(seed),
            num_envs=num_episodes,
            num_steps=episode_length // action_repeat,
        )

    episodes = jax.device_get(run(np.uint32(seed)))
    return Episodes(episodes.episode_metrics["reward"], episodes.episode_steps)


def write_gif(
    path: Path,
    environment: Env,
    policy: Policy,
    *,
    episode_length: int,
    num_episodes: int = 3,
    seed: int = 0,
    max_frames: int = 200,
) -> None:
    """Draws episodes with the environment's `render(state) -> (H, W, 3) uint8`, one after another.

    Each shows at most its first `max_frames` steps.
    """

    @jax.jit
    def run(seed: jax.Array, episode: jax.Array) -> tuple[State, State]:
        key = jax.random.fold_in(jax.random.PRNGKey(seed), episode)
        key_reset, key_steps = jax.random.split(key)

        def step(state: State, key: jax.Array) -> tuple[State, State]:
            action, _ = policy(state.obs, key)
            state = environment.step(state, action)
            return state, state

        start = environment.reset(key_reset)
        keys = jax.random.split(key_steps, min(episode_length, max_frames))
        return start, jax.lax.scan(step, start, keys)[1]

    frames: list[Image.Image] = []
    for episode in range(num_episodes):
        start, states = jax.device_get(run(np.uint32(seed), np.int32(episode)))
        ended = np.flatnonzero(states.done)
        length = ended[0] + 1 if ended.size else len(states.done)
        shown = [start] + [jax.tree.map(lambda x, i=i: x[i], states) for i in range(length)]
        frames += [Image.fromarray(np.asarray(environment.render(state))) for state in shown]
        frames += [frames[-1]] * 10  # rest a moment where it ended
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, loop=0)


def measure_speed(
    environment: Env,
    actions: Actions,
    num_envs: int,
    *,
    episode_length: int,
    resets: Resets = "fresh",
    seconds: float = 1.0,
) -> float:
    """Environment steps per second with random actions, wrapped as for training, compiled."""
    env = wrap_for_training(environment, episode_length, resets=resets)
    policy = random_policy(actions, environment.action_size)
    reset = jax.jit(lambda seed: env.reset(jax.random.split(jax.random.PRNGKey(seed), num_envs)))

    def step(state: State, key: jax.Array) -> tuple[State, None]:
        action, _ = jax.vmap(policy)(state.obs, jax.random.split(key, num_envs))
        return env.step(state, action), None

    @jax.jit
    def run(state: State, seed: jax.Array) -> State:
        return jax.lax.scan(step, state, jax.random.split(jax.random.PRNGKey(seed), 100))[0]

    state = jax.block_until_ready(run(reset(np.uint32(0)), np.uint32(0)))
    start, steps = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        state = jax.block_until_ready(run(state, np.uint32(steps)))
        steps += 100 * num_envs
    return steps / elapsed
