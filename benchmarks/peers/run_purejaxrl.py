"""Trains seeds at once with purejaxrl: run_purejaxrl.py PATH JSON, with a checkout's path.

With "watch" it prints one JSON line after each update, with the mean return of the last training
episodes: purejaxrl does not evaluate.

It changes the source as it loads it, so that purejaxrl can do the same work: hidden layers of 64
swish units, and in ppo_continuous_action.py Pendulum from gymnax instead of Brax's physics. Brax
and Navix, which it imports and does not need here, are left out; that makes it start faster.

JAX 0.10.2 can wait for itself for ever when it decomposes matrices in batches on few cores, as the
orthogonal initialiser does under vmap. So each seed's matrices are initialised by themselves.
"""

import json
import re
import sys
import time
import types
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

IDS = {
    "cartpole": "CartPole-v1",
    "pendulum": "Pendulum-v1",
    "acrobot": "Acrobot-v1",
    "breakout": "Breakout-MinAtar",
}


class Pendulum:
    """Gymnax's Pendulum with actions from -1 to 1, in the place of `BraxGymnaxWrapper`."""

    def __init__(self, name: str) -> None:
        self._env, self._params = gymnax.make(name)

    def reset(self, key, params=None):
        return self._env.reset(key, self._params)

    def step(self, key, state, action, params=None):
        return self._env.step(key, state, 2.0 * action, self._params)

    def observation_space(self, params):
        return self._env.observation_space(self._params)

    def action_space(self, params):
        return self._env.action_space(self._params)


def load(path: Path, name: str, layers: Sequence[int]) -> types.ModuleType:
    """A module of purejaxrl with the networks that all peers train.

    Args:
      path: the checkout.
      name: of the module.
      layers: widths; purejaxrl has two of 64, others may come before them.
    """
    source = (path / "purejaxrl" / f"{name}.py").read_text()
    source = replaced(source, "activation = nn.tanh", "activation = nn.swish", 1)
    if name == "ppo_continuous_action":
        source = replaced(source, "            256, kernel", "            64, kernel", 4)
    assert source.count("            64, kernel") == 4
    *before, first, second = layers
    assert (first, second) == (64, 64)
    for width in before:
        source = replaced(source, "        )(x)", f"        )(nn.swish(nn.Dense({width})(x)))", 2)
    module = types.ModuleType(name)
    sys.path.insert(0, str(path / "purejaxrl"))
    absent = ("navix", "brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training")
    with mock.patch.dict(sys.modules, {each: mock.MagicMock() for each in absent}):
        exec(compile(source, name, "exec"), module.__dict__)
    module.BraxGymnaxWrapper = Pendulum
    module.orthogonal = orthogonal
    return module


def orthogonal(scale: float):
    """Flax's initialiser; under vmap it is called once for each seed."""
    initialize = nn.initializers.orthogonal(scale)

    def init(key, shape, dtype=jnp.float32):
        return jax.custom_batching.sequential_vmap(lambda key: initialize(key, shape, dtype))(key)

    return init


def replaced(source: str, old: str, new: str, count: int) -> str:
    assert source.count(old) == count, f"purejaxrl has changed: {old!r}"
    return source.replace(old, new)


def watched(episodes: int):
    """In the place of `print`, which purejaxrl's callback calls for each episode that ended."""
    returns: deque[float] = deque(maxlen=episodes)

    def report(line: str) -> None:
        steps, value = re.findall(r"=(\S+?)(?:,|$)", line)
        returns.append(float(value))
        if len(returns) == episodes:
            row = {"steps": int(steps), "eval/episode_reward": sum(returns) / episodes}
            print(json.dumps(row), flush=True)

    return report


def main() -> None:
    path, given = Path(sys.argv[1]), json.loads(sys.argv[2])
    discrete = given["task"] != "pendulum"
    module = load(path, "ppo" if discrete else "ppo_continuous_action", given["layers"])
    watch = given.get("watch", False)
    if watch:
        module.print = watched(given["episodes"])
    train = module.make_train(
        {
            "ENV_NAME": IDS[given["task"]],
            "NUM_ENVS": given["num_envs"],
            "NUM_STEPS": given["unroll_length"],
            "TOTAL_TIMESTEPS": given["num_timesteps"],
            "UPDATE_EPOCHS": given["num_updates_per_batch"],
            "NUM_MINIBATCHES": given["num_minibatches"],
            "LR": given["learning_rate"],
            "ANNEAL_LR": given.get("anneal", False),
            "GAMMA": given["discounting"],
            "GAE_LAMBDA": given["gae_lambda"],
            "CLIP_EPS": given["clipping_epsilon"],
            "ENT_COEF": given["entropy_cost"],
            "VF_COEF": 0.5,
            "MAX_GRAD_NORM": given["max_grad_norm"],
            "ACTIVATION": "tanh",  # by now swish
            "NORMALIZE_ENV": given["normalize_observations"],
            "DEBUG": watch,
        }
    )
    keys = jax.random.split(jax.random.PRNGKey(given["seed"]), given["num_seeds"])
    if given["num_seeds"] == 1:  # without vmap, so that the callback sees one seed
        run = jax.jit(lambda keys: jax.tree.map(lambda x: x[None], train(keys[0])))
    else:
        run = jax.jit(jax.vmap(train))
    run = run.lower(keys).compile()
    start = time.perf_counter()
    out = jax.block_until_ready(run(keys))
    seconds = time.perf_counter() - start
    metrics = jax.tree.map(np.asarray, out["metrics"])  # (seeds, updates, steps, environments)
    # It does not evaluate, so these are training episodes, with sampled actions.
    last = slice(-max(1, metrics["timestep"].shape[1] // 10), None)
    ended, returns = metrics["returned_episode"], metrics["returned_episode_returns"]
    steps = int(metrics["timestep"].max()) * given["num_envs"]
    print(
        json.dumps(
            {
                "steps": steps,
                "training/sps": steps * given["num_seeds"] / seconds,
                "gradient_steps": int(jnp.max(out["runner_state"][0].step)),
                "returns": [
                    float(r[last][e[last]].mean()) for r, e in zip(returns, ended, strict=True)
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
