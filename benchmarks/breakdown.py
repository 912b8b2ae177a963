"""Where the seconds of `train` go, until its first update and within an update.

    python benchmarks/breakdown.py [--purejaxrl PATH --folder DIR]

Until the first update, on CartPole, Breakout and MJX: CPU seconds of a process that imports, traces
and compiles one program after the other, with nothing compiled before (cold) and with the
compilation cache that it left (warm). Beside it, the step of the environment alone.

Within an update of CartPole, with the batches of `side_by_side.SAME_WORK`: an update with four
passes over its rollouts beside one with a single pass. The difference is what gradient steps take,
the rest is rollouts. Beside it, the same with Brax's wrapper in place of ours, turn by turn in one
process; the same of purejaxrl, in the environment that side_by_side.py made in --folder; and what
no PPO can do without: gradients of a mean square through the same two networks, clipped, and Adam.
All but the last are also measured on Pendulum, and the first two on Breakout and MJX. Pendulum has
one more: the entropy of a normal distribution behind tanh has no closed form, and is estimated from
a sample in each gradient step, as in Brax; that before tanh, which purejaxrl has, is not.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import side_by_side

# Names are those of side_by_side.TASKS.
STARTUP = ("cartpole", "breakout", "mjx-cartpole")
UPDATES = {"cartpole": 200, "pendulum": 200, "breakout": 40, "mjx-cartpole": 20}  # timed at once
AT_PUREJAXRL = ("cartpole", "pendulum")  # its Breakout is another game
REPEATS = 7
STEPS = 16 * 64  # of an update

K = TypeVar("K")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--purejaxrl", type=Path, metavar="PATH", help="a checkout")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache/side-by-side")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(WORKERS[arguments.worker]()))
        return
    columns: dict[str, dict[str, float]] = {}
    for task in STARTUP:
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                found = work(f"startup {task}", cache)
                step = found.pop(STEP)
                columns[f"{task}, {state}"] = {
                    **found,
                    "together": sum(found.values()),
                    STEP: step,
                }
    print(f"| CPU seconds until the first update | {' | '.join(columns)} |")
    print("| --- |" + " ---: |" * len(columns))
    for row in next(iter(columns.values())):
        print(f"| {row} | {' | '.join(f'{x[row]:.1f}' for x in columns.values())} |", flush=True)
    print()

    print("| an update | ms | rollouts, ms | a gradient step, us |\n| --- | ---: | ---: | ---: |")
    for task in UPDATES:
        loops = work(task)
        if arguments.purejaxrl and task in AT_PUREJAXRL:
            bench = side_by_side.Bench(arguments.folder, arguments.purejaxrl.resolve())
            loops["purejaxrl"] = purejaxrl(bench, task)
        for name, x in loops.items():
            gradients = (x["4"] - x["1"]) / 3  # of one pass
            step = gradients / side_by_side.SAME_WORK[task]["num_minibatches"]
            rest = x["1"] - gradients
            parts = f"{rest:.2f} | {1000 * step:.0f}" if step > 0 else "all | too little to see"
            print(f"| {task}, {name} | {x['4']:.2f} | {parts} |", flush=True)
    print(f"| cartpole, gradients and Adam alone | | | {1000 * work('gradients'):.0f} |")


def work(name: str, cache: str | None = None) -> Any:
    """What a worker found, in a process of its own."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    examples = (side_by_side.TASKS[task].example for task in UPDATES)
    env["PYTHONPATH"] = os.pathsep.join(str(side_by_side.EXAMPLES / x / "src") for x in examples)
    if cache:
        env["JAX_COMPILATION_CACHE_DIR"] = cache
    command = [sys.executable, __file__, "--worker", name]
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def package_of(task: str) -> str:
    return side_by_side.TASKS[task].example.replace("-", "_")


def purejaxrl(bench: side_by_side.Bench, task: str) -> dict[str, float]:
    """Milliseconds of an update, by number of passes."""
    given = dict(side_by_side.SAME_WORK[task])
    found: dict[str, list[float]] = {"4": [], "1": []}
    for _ in range(3):
        for passes, seconds in found.items():
            settings = {**given, "num_updates_per_batch": int(passes)}
            run = bench.run("purejaxrl", task, settings, 0, None, watch=False)
            seconds.append(1000 * STEPS / run.last["training/sps"])
    return {passes: statistics.median(x) for passes, x in found.items()}


# ---- workers ------------------------------------------------------------------------------------


STEP = "tracing and compiling the step alone, of 16 environments"


def startup(task_name: str) -> dict[str, float]:
    package = package_of(task_name)
    found = {"Python and this script": time.process_time()}

    def mark(name: str) -> None:
        found[name] = time.process_time() - sum(found.values())

    import jax
    import numpy as np

    mark("importing JAX")
    import brax.envs  # noqa: F401

    mark("importing Brax, with MuJoCo's MJX")
    task = importlib.import_module(f"{package}.config").task
    importlib.import_module(f"{package}.kit.cli")  # which imports all others
    programs = importlib.import_module(f"{package}.kit.run.programs")
    cache = importlib.import_module(f"{package}.kit.run.cache")
    mark("importing the rest")
    cache.use_compilation_cache()
    settings = side_by_side.for_rollouts(side_by_side.SAME_WORK[task_name])
    task = dataclasses.replace(task, settings=dataclasses.replace(task.settings, **settings))
    made = programs.Programs(task)
    mark("tracing shapes")
    arguments = {"init": (0,), "epoch": (made.shapes, 1), "evaluate": (made.shapes,)}
    compiled = {}
    for name, args in arguments.items():
        lowered = made._jitted[name].lower(*args)
        mark(f"tracing `{name}`")
        # As `train` does.
        options = {"xla_backend_optimization_level": 0} if name == "init" else None
        compiled[name] = lowered.compile(options)
        mark(f"compiling `{name}`")
    state = jax.block_until_ready(compiled["init"](0))
    jax.block_until_ready(compiled["evaluate"](state))
    mark("`init` and the first evaluation")
    env = task.environment()
    states = jax.eval_shape(jax.vmap(env.reset), jax.ShapeDtypeStruct((16, 2), np.uint32))
    space = env.action_space
    actions = jax.ShapeDtypeStruct((16, *space.shape), space.dtype)
    jax.jit(jax.vmap(env.step)).lower(states, actions).compile()
    mark(STEP)
    return found


def update(task_name: str) -> dict[str, dict[str, float]]:
    """Milliseconds of an update, by wrapper and number of passes."""
    task = importlib.import_module(f"{package_of(task_name)}.config").task
    import jax
    from brax.envs.wrappers.training import wrap

    given = side_by_side.for_rollouts(side_by_side.SAME_WORK[task_name])
    updates = UPDATES[task_name]
    variants: dict[str, dict[str, Any]] = {
        "ours": {},
        "ours with Brax's wrapper": {"wrap_env_fn": wrap},
    }
    if task_name == "pendulum":
        variants["ours, entropy before tanh"] = {"network_factory": entropy_before_tanh()}
    runs: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, changed in variants.items():
        for passes in (4, 1):
            settings = dataclasses.replace(
                task.settings, **{**given, "num_updates_per_batch": passes}
            )
            made = dataclasses.replace(task, settings=settings, **changed).make_ppo()
            state, epoch = jax.jit(made.init)(0), jax.jit(made.epoch)
            runs[name, str(passes)] = lambda state=state, epoch=epoch: epoch(state, updates)
    found: dict[str, dict[str, float]] = {}
    for (name, passes), milliseconds in timed(runs, updates).items():
        found.setdefault(name, {})[passes] = milliseconds
    return found


def entropy_before_tanh() -> Any:
    """Pendulum's networks with a policy whose entropy is that of the normal distribution alone."""
    import jax
    from brax.training.distribution import NormalTanhDistribution
    from pendulum.kit import Continuous, make_network_factory

    class Distribution(NormalTanhDistribution):
        def entropy(self, parameters: jax.Array, seed: jax.Array) -> jax.Array:
            return self.create_dist(parameters).entropy().sum(axis=-1)

    class Action(Continuous):
        def distribution(self) -> NormalTanhDistribution:
            return Distribution(event_size=self.size)

    return make_network_factory(Action(1))


def gradients() -> float:
    """Milliseconds of a gradient step of CartPole."""
    import cartpole.config
    import jax
    import jax.numpy as jnp
    import optax
    from brax.training.types import identity_observation_preprocessor

    networks = cartpole.config.task.network_factory(
        (4,), 2, preprocess_observations_fn=identity_observation_preprocessor
    )
    key = jax.random.PRNGKey(0)
    both = (networks.policy_network, networks.value_network)
    params = [x.init(key) for x in both]
    minibatches = side_by_side.SAME_WORK["cartpole"]["num_minibatches"]
    obs = jax.random.normal(key, (minibatches, STEPS // minibatches, 4))
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3))
    updates = UPDATES["cartpole"]

    def loss(params: Any, obs: jax.Array) -> jax.Array:
        outputs = [x.apply(None, own, obs) for x, own in zip(both, params, strict=True)]
        return sum(jnp.mean(x**2) for x in outputs)

    def step(carry: Any, obs: jax.Array) -> Any:
        params, state = carry
        change, state = optimizer.update(jax.grad(loss)(params, obs), state)
        return (optax.apply_updates(params, change), state), None

    @jax.jit
    def run(carry: Any) -> Any:
        return jax.lax.fori_loop(0, updates, lambda _, x: jax.lax.scan(step, x, obs)[0], carry)

    carry = (params, optimizer.init(params))
    return timed({"alone": lambda: run(carry)}, updates * minibatches)["alone"]


def timed(runs: Mapping[K, Callable[[], Any]], count: int) -> dict[K, float]:
    """Median milliseconds of one of `count`, taking turns, without the first time."""
    import jax

    found: dict[K, list[float]] = {name: [] for name in runs}
    for _ in range(1 + REPEATS):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            found[name].append(1000 * (time.perf_counter() - start) / count)
    return {name: statistics.median(x[1:]) for name, x in found.items()}


WORKERS: dict[str, Callable[[], Any]] = {
    **{f"startup {task}": functools.partial(startup, task) for task in STARTUP},
    **{task: functools.partial(update, task) for task in UPDATES},
    "gradients": gradients,
}


if __name__ == "__main__":
    main()
