"""What PPO trains: its state and what it measures."""

from dataclasses import fields
from typing import Any

import flax
import jax
import numpy as np
import optax
from brax.envs.base import State
from brax.training.acme import running_statistics
from brax.training.agents.ppo import losses

from .rewards import RewardScale
from .settings import PPOConfig

Metrics = dict[str, jax.Array]


class HyperParameters(flax.struct.PyTreeNode):
    """The settings that are arrays rather than constants of the program, () float32 each.

    Members of one program may differ in them. `PPOConfig` says what they are.
    """

    learning_rate: jax.Array
    entropy_cost: jax.Array
    discounting: jax.Array
    gae_lambda: jax.Array
    clipping_epsilon: jax.Array
    reward_scaling: jax.Array

    @classmethod
    def of(cls, settings: PPOConfig) -> "HyperParameters":
        """Those of `settings`."""
        given: dict[str, Any] = {
            field.name: np.asarray(getattr(settings, field.name), np.float32)
            for field in fields(cls)
        }
        return cls(**given)


class TrainingState(flax.struct.PyTreeNode):
    """Everything that training goes on from.

    Attributes:
      params: weights of the policy and the value network.
      optimizer_state: moments of Adam.
      learning_rate: () float32, of the last update.
      hyperparameters: the numeric settings; a run that was resumed to another length may have
        another learning rate.
      normalizer_params: running statistics of the observations.
      reward_scale: what rewards are divided by.
      env_state: the environments, batched by num_envs.
      key: (2,) uint32, split at each update.
      eval_key: (2,) uint32, the same throughout a run.
      seed: () uint32, what all keys and randomised systems follow from.
      updates: () int32, number of updates so far.
    """

    params: losses.PPONetworkParams
    optimizer_state: optax.OptState
    learning_rate: jax.Array
    hyperparameters: HyperParameters
    normalizer_params: running_statistics.RunningStatisticsState
    reward_scale: RewardScale
    env_state: State
    key: jax.Array
    eval_key: jax.Array
    seed: jax.Array
    updates: jax.Array


class Totals(flax.struct.PyTreeNode):
    """Sums over updates; those of two epochs are added leaf by leaf.

    Attributes:
      updates: () int32, how many.
      metrics: losses and other numbers of each update, () float32 each.
      episodes: () float32, training episodes that ended.
      episode_metrics: sums over those episodes: `reward`, `length` and the environment's metrics.
      not_finite: () int32, greater than 0 where an environment has given an observation, a reward
        or a `done` that is not finite.
    """

    updates: jax.Array
    metrics: Metrics
    episodes: jax.Array
    episode_metrics: Metrics
    not_finite: jax.Array

    def means(self) -> dict[str, np.ndarray]:
        """On the host: `training/...` means over the updates, and over the episodes that ended."""
        found = {name: np.asarray(x) / self.updates for name, x in self.metrics.items()}
        with np.errstate(invalid="ignore"):  # no episode has ended: NaN
            for name, x in self.episode_metrics.items():
                found[f"episode_{name}"] = np.asarray(x) / self.episodes
        found["episodes"] = np.asarray(self.episodes)
        return {f"training/{name}": x for name, x in found.items()}


def policy_params(state: TrainingState) -> tuple[Any, Any, Any]:
    """What Brax's `make_inference_fn` takes: normaliser, policy and value parameters."""
    return state.normalizer_params, state.params.policy, state.params.value
