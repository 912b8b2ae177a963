"""What auto-reset costs: environment steps per second under each wrapper.

    python benchmarks/wrappers.py [--old PATH]

The environment is a pendulum whose `reset` costs less than a step, or a search of a thousand
steps. Its episodes end all together at the time limit, or each by itself at a time of its own. It
is measured alone and vmapped over eight seeds. `--old` adds an older `kit/env/wrappers.py`.

All rows of a column are compiled first and then run in turn; the medians are printed. Steps per
second of CPU time are counted, because those depend less on what else the machine does.
"""

import argparse
import functools
import itertools
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State
from brax.envs.wrappers import training

sys.path.insert(0, str(Path(__file__).parents[1] / "template" / "src" / "{{package_name}}"))
from kit.env.wrappers import wrap_for_training

EPISODE_LENGTH = 100
ROUNDS, SECONDS = 9, 10.0  # of a column; at least one round, however long it takes


class Pendulum(Env):
    """A pendulum; `search` is the cost of `reset`, `falls` lets episodes end by themselves."""

    observation_size = 3
    action_size = 1
    backend = "abstract"

    def __init__(self, search: int, falls: bool) -> None:
        self._search = search
        self._falls = falls

    def reset(self, rng: jax.Array) -> State:
        x = jax.random.uniform(rng, (2,), minval=-1.0, maxval=1.0)
        x = jax.lax.fori_loop(0, self._search, lambda _, x: x - 1e-3 * jnp.sin(x), x)
        zero = jnp.zeros(())
        return State(x, self._observe(x), zero, zero, {"speed": zero})

    def step(self, state: State, action: jax.Array) -> State:
        angle, speed = state.pipeline_state
        speed = jnp.clip(speed + 0.75 * jnp.sin(angle) + 0.15 * action[0], -8.0, 8.0)
        x = jnp.stack([angle + 0.05 * speed, speed])
        # Once in about a hundred steps.
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


def compile_run(env: Env, batch: int, seeds: int | None) -> tuple[Callable[[], None], int]:
    """A function that runs `env`, and the number of environment steps that it takes."""
    steps = max(EPISODE_LENGTH, 20_000 // (batch * (seeds or 1)) // EPISODE_LENGTH * EPISODE_LENGTH)

    def run(state: State) -> State:
        def step(state: State, t: jax.Array) -> tuple[State, None]:
            action = jnp.cos(t + jnp.arange(batch, dtype=jnp.float32))[:, None]
            return env.step(state, action), None

        return jax.lax.scan(step, state, jnp.arange(steps, dtype=jnp.float32))[0]

    keys = jax.random.split(jax.random.PRNGKey(0), batch * (seeds or 1))
    reset: Callable[[jax.Array], State] = env.reset
    if seeds:
        run, reset, keys = jax.vmap(run), jax.vmap(reset), keys.reshape(seeds, batch, -1)
    state = jax.jit(reset)(keys)
    compiled = jax.jit(run).lower(state).compile()
    return lambda: jax.block_until_ready(compiled(state)), steps * batch * (seeds or 1)


def steps_per_second(runs: Sequence[tuple[Callable[[], None], int]]) -> list[float]:
    """Of CPU time, of each, run in turn."""
    seconds: list[list[float]] = [[] for _ in runs]
    begin = time.perf_counter()
    for _ in range(ROUNDS):
        for (run, _), times in zip(runs, seconds, strict=True):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
        if time.perf_counter() - begin > SECONDS:
            break
    return [steps / statistics.median(s) for (_, steps), s in zip(runs, seconds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", type=Path, metavar="PATH", help="an older kit/env/wrappers.py")
    parser.add_argument("--batches", type=int, nargs="+", default=(8, 256, 2048, 8192))
    arguments = parser.parse_args()

    wrappers: dict[str, Callable[[Env], Env]] = {
        "bare environment, vmap": training.VmapWrapper,
        "Brax's `wrap`": functools.partial(training.wrap, episode_length=EPISODE_LENGTH),
        "`wrap_for_training`": functools.partial(wrap_for_training, episode_length=EPISODE_LENGTH),
    }
    if arguments.old:
        old = runpy.run_path(str(arguments.old))["wrap_for_training"]
        wrappers["before"] = functools.partial(old, episode_length=EPISODE_LENGTH)

    cases = itertools.product((None, 8), (("cheap", 0), ("expensive", 1_000)), (False, True))
    for seeds, (cost, search), falls in cases:
        ends = "episodes end at times of their own" if falls else "episodes end together"
        where = f"under vmap over {seeds} seeds" if seeds else "alone"
        print(f"\nReset {cost}, {ends}, {where}; M steps/CPU-s (part of the bare environment's):\n")
        print("| | " + " | ".join(f"{batch:,} envs" for batch in arguments.batches) + " |")
        print("| --- |" + " ---: |" * len(arguments.batches))
        cells: dict[str, list[str]] = {name: [] for name in wrappers}
        for batch in arguments.batches:
            env = Pendulum(search, falls)
            speeds = steps_per_second(
                [compile_run(wrap(env), batch, seeds) for wrap in wrappers.values()]
            )
            for row, speed in zip(cells.values(), speeds, strict=True):
                row.append(f"{speed / 1e6:.3g} ({speed / speeds[0]:.0%})")
        for name, row in cells.items():
            print(f"| {name} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
