"""Trains Pendulum with Stable-Baselines3 until it is solved: run_sb3.py JSON.

Prints one JSON line at each evaluation, which follows each of its updates.
"""

import json
import os
import sys
import time

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

torch.set_num_threads(1)  # two took ten times as long


class Evaluation(BaseCallback):
    def __init__(self, threshold: float, episodes: int) -> None:
        super().__init__()
        self._threshold = threshold
        self._env = make_vec_env("Pendulum-v1", n_envs=episodes, seed=10_000)

    def _on_rollout_start(self) -> None:
        if not self.num_timesteps:
            return
        start = time.perf_counter()
        mean, _ = evaluate_policy(self.model, self._env, n_eval_episodes=self._env.num_envs)
        seconds = time.perf_counter() - start
        row = {"steps": self.num_timesteps, "return": float(mean), "seconds": seconds}
        print(json.dumps(row), flush=True)
        if mean >= self._threshold:
            os._exit(0)

    def _on_step(self) -> bool:
        return True


def main() -> None:
    given = json.loads(sys.argv[1])
    # rl-baselines3-zoo, hyperparams/ppo.yml, Pendulum-v1.
    model = PPO(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", n_envs=4, seed=given["seed"]),
        n_steps=1024,
        gae_lambda=0.95,
        gamma=0.9,
        n_epochs=10,
        ent_coef=0.0,
        learning_rate=1e-3,
        clip_range=0.2,
        use_sde=True,
        sde_sample_freq=4,
        seed=given["seed"],
        device="cpu",
    )
    model.learn(given["num_timesteps"], callback=Evaluation(given["threshold"], given["episodes"]))


if __name__ == "__main__":
    main()
