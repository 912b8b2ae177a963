"""Trains an example with Brax's `ppo.train`, as it is or as MuJoCo Playground calls it.

    run_brax.py JSON

The environment and the networks are the example's (its `src` is on the path), the wrapper is
Brax's own or Playground's. It prints one JSON line for each evaluation.
"""

import functools
import importlib
import json
import sys
from typing import Any

from brax.envs.base import Env, State
from brax.training.agents.ppo import networks
from brax.training.agents.ppo import train as ppo

SETTINGS = (
    "num_timesteps",
    "num_envs",
    "unroll_length",
    "batch_size",
    "num_minibatches",
    "num_updates_per_batch",
    "learning_rate",
    "discounting",
    "gae_lambda",
    "clipping_epsilon",
    "entropy_cost",
    "max_grad_norm",
    "normalize_observations",
    "seed",
)


def main() -> None:
    given = json.loads(sys.argv[1])
    kit = importlib.import_module(f"{given['package']}.kit.brax_trainers")
    kit.enable_brax_trainers()
    more: dict[str, Any] = {}
    if given["loop"] == "Playground":
        env, more["wrap_env_fn"] = playground(given["package"])
        more["network_factory"] = functools.partial(
            networks.make_ppo_networks,
            policy_hidden_layer_sizes=(64, 64),
            value_hidden_layer_sizes=(64, 64),
        )
        episode_length = 1000
    else:
        task = importlib.import_module(f"{given['package']}.config").task
        env, episode_length = task.environment(), task.settings.episode_length
        more["network_factory"] = task.network_factory

    def report(steps: int, metrics: dict[str, Any]) -> None:
        row = {"steps": int(steps)}
        for name in ("eval/episode_reward", "training/sps"):
            if name in metrics:
                row[name] = float(metrics[name])
        print(json.dumps(row), flush=True)

    ppo.train(
        env,
        episode_length=episode_length,
        num_evals=1 + given["num_timesteps"] // given["evaluate_every"] if given["watch"] else 6,
        num_eval_envs=given["episodes"],
        deterministic_eval=True,
        reward_scaling=0.1,  # as ours by default
        progress_fn=report,
        **{name: given[name] for name in SETTINGS},
        **more,
    )


def playground(package: str) -> tuple[Any, Any]:
    """The environment as one of Playground's, and its wrapper."""
    from ml_collections import config_dict
    from mujoco_playground import MjxEnv, wrapper
    from mujoco_playground import State as PlaygroundState

    module = importlib.import_module(f"{package}.env")
    inner: Env = module.InvertedPendulum()

    class InvertedPendulum(MjxEnv):
        """The same physics, reward and end, in Playground's state."""

        def __init__(self) -> None:
            super().__init__(config_dict.create(ctrl_dt=0.04, sim_dt=0.02))

        def reset(self, rng):
            state = inner.reset(rng)
            return PlaygroundState(
                state.pipeline_state, state.obs, state.reward, state.done, {}, {}
            )

        def step(self, state, action):
            before = State(state.data, state.obs, state.reward, state.done)
            after = inner.step(before, action)
            return state.replace(
                data=after.pipeline_state, obs=after.obs, reward=after.reward, done=after.done
            )

        @property
        def xml_path(self) -> str:
            return ""

        @property
        def action_size(self) -> int:
            return inner.action_size

        @property
        def mj_model(self):
            raise NotImplementedError

        @property
        def mjx_model(self):
            return inner.sys

    return InvertedPendulum(), wrapper.wrap_for_brax_training


if __name__ == "__main__":
    main()
