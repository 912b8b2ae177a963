"""Settings of PPO."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from ..bounds import FRACTION, MANY, NOT_NEGATIVE, POSITIVE, SEED, Bounds, check_all
from ..errors import UsageError

Schedule = Literal["linear", "constant", "adaptive_kl"]


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO; the names are those of `ppo.train`, where it has them.

    Raises:
      UsageError (a ValueError): PPO can't run with these settings.
    """

    episode_length: Annotated[int, Bounds(1, 10**7)]
    """Time limit: the number of steps after which an episode is cut off."""
    num_timesteps: Annotated[int, POSITIVE] = 1_000_000
    """Environment steps to train for; rounded up to whole updates."""
    action_repeat: Annotated[int, MANY] = 1
    """How many steps each action is applied for."""
    seed: Annotated[int, SEED] = 0
    """Seed of everything random in a run."""
    num_seeds: Annotated[int, MANY] = 1
    """Seeds to train at once, in one program: seed, seed + 1, and so on."""

    num_envs: Annotated[int, MANY] = 16
    """Environments that run in parallel; has to divide batch_size x num_minibatches."""
    unroll_length: Annotated[int, MANY] = 16
    """Actions in a rollout."""
    batch_size: Annotated[int, MANY] = 16
    """Rollouts in a minibatch."""
    num_minibatches: Annotated[int, MANY] = 16
    """Minibatches in an update."""
    num_updates_per_batch: Annotated[int, MANY] = 8
    """Passes over the minibatches of an update, shuffled each time."""

    learning_rate: Annotated[float, POSITIVE] = 1e-3
    """Step size of Adam."""
    learning_rate_schedule: Schedule = "linear"
    """linear (to 0 in the second half), constant or adaptive_kl (keeps KL near desired_kl)."""
    desired_kl: Annotated[float, POSITIVE] = 0.01
    """KL divergence that adaptive_kl aims at."""
    entropy_cost: Annotated[float, NOT_NEGATIVE] = 3e-2
    """Weight of the entropy bonus; a larger one explores for longer."""
    discounting: Annotated[float, FRACTION] = 0.98
    """Discount factor (gamma)."""
    gae_lambda: Annotated[float, FRACTION] = 0.95
    """Lambda of generalised advantage estimation."""
    clipping_epsilon: Annotated[float, POSITIVE] = 0.3
    """Clipping range of the policy's probability ratio."""
    clipping_epsilon_value: Annotated[float | None, POSITIVE] = None
    """Clipping range of the value estimate; `None`, the default, does not clip."""
    normalize_advantage: bool = True
    """Normalise the advantages of each minibatch."""
    normalize_rewards: bool = True
    """Divide rewards in the loss by the root mean square TD error of a constant value."""
    reward_scaling: Annotated[float, POSITIVE] = 0.1
    """Factor on rewards in the loss; returns are reported unscaled."""
    init_value_from_rollouts: bool = True
    """Before the first update, set the value's output bias to the best constant value."""
    vf_loss_coefficient: Annotated[float, NOT_NEGATIVE] = 0.5
    """Weight of the value loss."""
    max_grad_norm: Annotated[float | None, POSITIVE] = 1.0
    """Clip gradients to this global norm; `None` does not clip."""
    bootstrap_on_timeout: bool = False
    """At the time limit, add the discounted value of the last observation to the reward."""

    normalize_observations: bool = True
    """Normalise observations by running statistics; images are left as they are."""
    normalize_observations_std_eps: Annotated[float, NOT_NEGATIVE] = 0.0
    """Added to the variance when observations are normalised."""

    num_evals: Annotated[int, Bounds(2, MANY.high, why="one before training and one after")] = 10
    """Evaluations in a run, including the one before training."""
    num_eval_envs: Annotated[int, MANY] = 128
    """Episodes in an evaluation."""
    deterministic_eval: bool = True
    """Evaluate the most likely action rather than a sample."""

    @property
    def steps_per_update(self) -> int:
        """Environment steps that one update collects."""
        rollouts = self.batch_size * self.num_minibatches
        return rollouts * self.unroll_length * self.action_repeat

    @property
    def num_updates(self) -> int:
        """Updates in the whole run."""
        return -(-self.num_timesteps // self.steps_per_update)

    def __post_init__(self) -> None:
        check_all(PPOConfig, vars(self))
        if self.seed + self.num_seeds > 2**32:
            raise UsageError(f"seed + num_seeds has to be at most {2**32}: use a smaller seed.")
        if self.num_updates >= 2**31:
            raise UsageError(
                f"num_timesteps is {self.num_timesteps}, which is {self.num_updates} updates and "
                f"has to be fewer than {2**31}: use a smaller num_timesteps or a larger batch_size."
            )
        rollouts = self.batch_size * self.num_minibatches
        if rollouts % self.num_envs:
            batch = self.num_envs // math.gcd(self.num_envs, self.num_minibatches)
            batch *= max(1, round(self.batch_size / batch))
            small = [n for n in range(1, math.isqrt(rollouts) + 1) if rollouts % n == 0]
            divisors = {*small, *(rollouts // n for n in small)}
            near = sorted(divisors, key=lambda n: abs(n - self.num_envs))[:2]
            raise UsageError(
                f"num_envs is {self.num_envs}, which has to divide batch_size x num_minibatches = "
                f"{rollouts}: use num_envs {' or '.join(map(str, sorted(near)))}, "
                f"or batch_size {batch}."
            )
        if self.episode_length % self.action_repeat:
            below = self.episode_length - self.episode_length % self.action_repeat
            raise UsageError(
                f"episode_length is {self.episode_length}, which has to be a multiple of "
                f"action_repeat = {self.action_repeat}: use {below or self.action_repeat}."
            )
        if self.episode_length // self.action_repeat < 2:
            raise UsageError(
                f"episode_length is {self.episode_length}, which has to leave 2 actions or more, "
                "because PPO compares what followed an action: for one-step episodes "
                f"set done in step and use episode_length {2 * self.action_repeat}."
            )
