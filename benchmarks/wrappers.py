"""What the training wrappers cost, in steps per second and in memory.

    python benchmarks/wrappers.py

Each way to start episodes anew is measured beside Brax's own wrapper and beside the bare
environment under `vmap`, for a `reset` that costs less than a step and for one that takes a
thousand steps of a search; with episodes that all end together and with ones that end when they
like. All are compiled first, then run in turn, seven times: the medians are printed.
"""

import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "template" / "src" / "{{package_name}}"))
from kit.wrappers import wrap_for_training  # before Brax, which it keeps quiet

# isort: split
import jax
import jax.numpy as jnp
from brax.envs.base import Env, State
from brax.envs.wrappers import training

BATCHES = (8, 256, 2048)
LENGTH = 100  # steps in an episode
ROUNDS = 7


class Pendulum(Env):
    """A pendulum; `search` makes its `reset` dear, `falls` makes its episodes end by themselves."""

    observation_size = 3
    action_size = 1
    backend = "abstract"

    def __init__(self, search: int, falls: bool) -> None:
        self._search = search
        self._falls = falls

    def reset(self, rng: jax.Array) -> State:
        x = jax.random.uniform(rng, (2,), minval=-1.0, maxval=1.0)

        def relax(_: int, x: jax.Array) -> jax.Array:
            return x - 1e-3 * jnp.sin(x)

        x = jax.lax.fori_loop(0, self._search, relax, x)
        zero = jnp.zeros(())
        return State(x, self._observe(x), zero, zero, {"speed": zero})

    def step(self, state: State, action: jax.Array) -> State:
        angle, speed = state.pipeline_state
        speed = jnp.clip(speed + 0.75 * jnp.sin(angle) + 0.15 * action[0], -8.0, 8.0)
        x = jnp.stack([angle + 0.05 * speed, speed])
        # Each environment falls at a time of its own, once in about a hundred steps.
        fell = jnp.abs(jnp.sin(1e4 * x[0])) < 0.016 if self._falls else jnp.zeros((), bool)
        return state.replace(
            pipeline_state=x,
            obs=self._observe(x),
            reward=-(angle**2),
            done=fell.astype(jnp.float32),
            metrics={**state.metrics, "speed": jnp.abs(speed)},
        )

    def _observe(self, x: jax.Array) -> jax.Array:
        return jnp.stack([jnp.cos(x[0]), jnp.sin(x[0]), x[1]])


WRAPPERS: dict[str, Callable[[Env], Env]] = {
    "bare env, vmap": training.VmapWrapper,
    "Brax's own wrap": functools.partial(training.wrap, episode_length=LENGTH),
    "fresh": functools.partial(wrap_for_training, episode_length=LENGTH),
    "pool": functools.partial(wrap_for_training, episode_length=LENGTH, resets="pool"),
    "cached": functools.partial(wrap_for_training, episode_length=LENGTH, resets="cached"),
}


def prepare(env: Env, batch: int) -> tuple[Callable[[], None], int, int]:
    """Compiles a run.

    Returns:
      A function that makes a run of the second number of steps; and the bytes that the state of one
      environment takes.
    """
    steps = max(3 * LENGTH, 100_000 // batch)

    @jax.jit
    def run(state: State, key: jax.Array) -> State:
        def step(state: State, t: jax.Array) -> tuple[State, None]:
            action = jnp.cos(t + jnp.arange(batch, dtype=jnp.float32))[:, None]
            return env.step(state, action), None

        return jax.lax.scan(step, state, jnp.arange(steps, dtype=jnp.float32))[0]

    keys = jax.random.split(jax.random.PRNGKey(0), batch)
    state = jax.block_until_ready(jax.jit(env.reset)(keys))
    jax.block_until_ready(run(state, keys[0]))
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    return lambda: jax.block_until_ready(run(state, keys[0])), steps * batch, size // batch


def measure(runs: dict[Any, tuple[Callable[[], None], int, int]]) -> dict[Any, float]:
    """Millions of steps per second of each, run in turn."""
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, (run, _, _) in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: runs[name][1] / statistics.median(s) / 1e6 for name, s in seconds.items()}


def main() -> None:
    for title, search in (("A cheap reset", 0), ("A dear reset", 1_000)):
        for when, falls in (
            ("episodes end together", False),
            ("episodes end when they like", True),
        ):
            print(f"\n{title}, {when}: M steps/s, and as a share of the bare environment\n")
            print("| | " + " | ".join(f"{batch:,} envs" for batch in BATCHES) + " | bytes/env |")
            print("| --- |" + " ---: |" * (len(BATCHES) + 1))
            cells: dict[str, list[str]] = {name: [] for name in WRAPPERS}
            for batch in BATCHES:
                env = Pendulum(search, falls)
                runs = {name: prepare(wrap(env), batch) for name, wrap in WRAPPERS.items()}
                speed = measure(runs)
                for name in WRAPPERS:
                    share = speed[name] / speed["bare env, vmap"]
                    cells[name].append(f"{speed[name]:.3g} ({share:.0%})")
                    if batch == BATCHES[-1]:
                        cells[name].append(f"{runs[name][2]}")
            for name, row in cells.items():
                print(f"| {name} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
