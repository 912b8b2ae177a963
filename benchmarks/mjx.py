"""CPU seconds of compiling an MJX cart-pole: each program of `train`, and a whole `check`.

    python benchmarks/mjx.py

Nothing is cached. Tracing is counted with the compilation. `step alone` is the bare environment
under `vmap`, for comparison.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "template/src/{{package_name}}"), str(ROOT / "tests/tasks")]
from kit.check import examine  # noqa: E402
from kit.env.actions import Continuous  # before Brax, which it keeps quiet  # noqa: E402
from kit.ppo.networks import make_network_factory  # noqa: E402
from kit.ppo.settings import PPOConfig  # noqa: E402
from kit.ppo.task import Task  # noqa: E402

# isort: split
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from mjx_cartpole import MjxCartPole  # noqa: E402

NUM_ENVS = 16


def main() -> None:
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}")
    print("| program | CPU seconds |\n| --- | ---: |", flush=True)
    env = MjxCartPole()
    keys = jax.ShapeDtypeStruct((NUM_ENVS, 2), jnp.uint32)
    states = jax.eval_shape(jax.vmap(env.reset), keys)
    actions = jax.ShapeDtypeStruct((NUM_ENVS, 1), jnp.float32)
    report("step alone", lambda: jax.jit(jax.vmap(env.step)).lower(states, actions).compile())
    report("reset alone", lambda: jax.jit(jax.vmap(env.reset)).lower(keys).compile())
    task = Task(
        environment=lambda: env,
        settings=PPOConfig(episode_length=500, num_envs=NUM_ENVS),
        network_factory=make_network_factory(Continuous(1)),
    )
    ppo = task.make_ppo()
    seed, updates = np.uint32(0), np.int32(1)
    state = jax.eval_shape(ppo.init, seed)
    report("init", lambda: jax.jit(ppo.init).lower(seed).compile())
    report("epoch", lambda: jax.jit(ppo.epoch).lower(state, updates).compile())
    report("evaluate", lambda: jax.jit(ppo.evaluate).lower(state).compile())
    report("check", lambda: examine(task))


def report(name: str, work: Callable[[], object]) -> None:
    start = time.process_time()
    work()
    print(f"| {name} | {time.process_time() - start:.1f} |", flush=True)


if __name__ == "__main__":
    main()
