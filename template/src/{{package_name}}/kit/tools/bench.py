"""Environment steps per second."""

import time

import jax
import numpy as np
from brax.envs.base import State

from ..env.actions import action_space_of
from ..ppo.task import Task
from ..run.fingerprint import reset_shapes

MAX_BYTES = 500e6  # of observations


def bench(task: Task) -> None:
    """Prints the speed of 1, 8, 64 ... environments, until more are not faster."""
    obs = reset_shapes(task.environment()).obs
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(obs))
    best, num_envs = 0.0, 1
    while num_envs * size <= MAX_BYTES:
        speed = measure_speed(task, num_envs)
        print(f"{num_envs:>9,} environments   {speed:>15,.0f} steps/s", flush=True)
        if speed < 1.1 * best:
            return
        best, num_envs = speed, 8 * num_envs
    print(f"{num_envs:>9,} environments   left out: over 500 MB of observations")


def measure_speed(task: Task, num_envs: int, *, seconds: float = 1.0) -> float:
    """Environment steps per second with random actions, wrapped as for training, compiled."""
    env = task.batched(training=True)
    space = action_space_of(env)

    def step(state: State, key: jax.Array) -> tuple[State, None]:
        return env.step(state, space.sample(key, (num_envs,))), None

    @jax.jit
    def run(state: State, seed: jax.Array) -> State:
        return jax.lax.scan(step, state, jax.random.split(jax.random.PRNGKey(seed), 100))[0]

    keys = jax.random.split(jax.random.PRNGKey(0), num_envs)
    state = jax.block_until_ready(run(jax.jit(env.reset)(keys), np.uint32(0)))
    start, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        calls += 1
        state = jax.block_until_ready(run(state, np.uint32(calls)))
    return 100 * calls * num_envs * task.settings.action_repeat / elapsed
