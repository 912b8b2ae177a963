"""Trains with Stable-Baselines3 or sbx: run_sb3.py JSON.

With "watch" it evaluates after updates and prints one JSON line each; else it prints steps/s, from
the end of the second update on (sbx compiles in the first).
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization

torch.set_num_threads(1)  # two took ten times as long

IDS = {"cartpole": "CartPole-v1", "pendulum": "Pendulum-v1", "acrobot": "Acrobot-v1"}


def main() -> None:
    given = json.loads(sys.argv[1])
    if given["loop"] == "sbx":
        from sbx import PPO
    else:
        from stable_baselines3 import PPO
    batch = given["num_envs"] * given["unroll_length"]
    more = {"use_sde": True, "sde_sample_freq": 4} if may_use_sde(given) else {}
    model = PPO(
        "MlpPolicy",
        make_env(given, given["num_envs"], given["seed"]),
        n_steps=given["unroll_length"],
        batch_size=batch // given["num_minibatches"],
        n_epochs=given["num_updates_per_batch"],
        learning_rate=annealed(given, "learning_rate"),
        clip_range=annealed(given, "clipping_epsilon"),
        gamma=given["discounting"],
        gae_lambda=given["gae_lambda"],
        ent_coef=given["entropy_cost"],
        max_grad_norm=given["max_grad_norm"],
        seed=given["seed"],
        device="cpu",
        policy_kwargs={"net_arch": given["layers"]},
        **more,
    )
    watch = Evaluation(given) if given["watch"] else Speed()
    model.learn(given["num_timesteps"], callback=watch)


def may_use_sde(given: dict[str, Any]) -> bool:
    return given.get("use_sde", False) and given["loop"] != "sbx"


def annealed(given: dict[str, Any], name: str) -> float | Callable[[float], float]:
    """A value, or the schedule on which it falls to 0; of sbx the clipping range is constant."""
    value = given[name]
    if not given.get("anneal") or (given["loop"] == "sbx" and name == "clipping_epsilon"):
        return value
    return lambda progress_remaining: progress_remaining * value


def make_env(given: dict[str, Any], num_envs: int, seed: int, training: bool = True) -> VecEnv:
    env = make_vec_env(lambda: one_env(given["task"]), n_envs=num_envs, seed=seed)
    if not given["normalize_observations"]:
        return env
    return VecNormalize(env, training=training, norm_reward=training, gamma=given["discounting"])


def one_env(task: str) -> gymnasium.Env:
    if task in IDS:
        return gymnasium.make(IDS[task])
    from minatar.gym import register_envs

    register_envs()
    env = gymnasium.make("MinAtar/Breakout-v1", max_episode_steps=1000)
    flat = gymnasium.wrappers.FlattenObservation(env)
    return gymnasium.wrappers.DtypeObservation(flat, np.float32)


class Evaluation(BaseCallback):
    """Prints the mean return of deterministic episodes."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__()
        self._every, self._next = given["evaluate_every"], given["evaluate_every"]
        self._env = make_env(given, given["episodes"], 10_000, training=False)

    def _on_rollout_start(self) -> None:
        if self.num_timesteps < self._next:
            return
        self._next += self._every
        if isinstance(self._env, VecNormalize):
            sync_envs_normalization(self.training_env, self._env)
        mean, _ = evaluate_policy(self.model, self._env, n_eval_episodes=self._env.num_envs)
        print(json.dumps({"steps": self.num_timesteps, "eval/episode_reward": float(mean)}))
        sys.stdout.flush()

    def _on_step(self) -> bool:
        return True


class Speed(BaseCallback):
    """Prints steps/s."""

    def __init__(self) -> None:
        super().__init__()
        self._updates, self._start, self._steps = 0, 0.0, 0

    def _on_rollout_start(self) -> None:
        self._updates += 1
        if self._updates == 3:
            self._start, self._steps = time.perf_counter(), self.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        seconds = time.perf_counter() - self._start
        steps = self.num_timesteps - self._steps
        row = {"steps": self.num_timesteps, "training/sps": steps / seconds}
        print(json.dumps(row), flush=True)
        os._exit(0)


if __name__ == "__main__":
    main()
