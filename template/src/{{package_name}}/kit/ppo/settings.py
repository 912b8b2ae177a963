"""Settings of PPO."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ..errors import UsageError

Schedule = Literal["linear", "constant", "adaptive_kl"]


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO; the names are those of `ppo.train`, where it has them.

    Raises:
      UsageError (a ValueError): PPO can't run with these settings.
    """

    episode_length: int
    """Time limit: the number of steps after which an episode is cut off."""
    num_timesteps: int = 1_000_000
    """Environment steps to train for; rounded up to whole updates."""
    action_repeat: int = 1
    """How many steps each action is applied for."""
    seed: int = 0
    """Seed of everything random in a run."""
    num_seeds: int = 1
    """Seeds to train at once, in one program: seed, seed + 1, and so on."""

    num_envs: int = 16
    """Environments that run in parallel; has to divide batch_size x num_minibatches."""
    unroll_length: int = 16
    """Actions in a rollout."""
    batch_size: int = 16
    """Rollouts in a minibatch."""
    num_minibatches: int = 16
    """Minibatches in an update."""
    num_updates_per_batch: int = 8
    """Passes over the minibatches of an update, shuffled each time."""

    learning_rate: float = 1e-3
    """Step size of Adam."""
    learning_rate_schedule: Schedule = "linear"
    """linear (to 0 in the second half), constant or adaptive_kl (keeps KL near desired_kl)."""
    desired_kl: float = 0.01
    """KL divergence that adaptive_kl aims at."""
    entropy_cost: float = 3e-2
    """Weight of the entropy bonus; a larger one explores for longer."""
    discounting: float = 0.98
    """Discount factor (gamma)."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation."""
    clipping_epsilon: float = 0.3
    """Clipping range of the policy's probability ratio."""
    clipping_epsilon_value: float | None = None
    """Clipping range of the value estimate; `None` does not clip."""
    normalize_advantage: bool = True
    """Normalise the advantages of each minibatch."""
    normalize_rewards: bool = True
    """Divide rewards in the loss by the root mean square TD error of a constant value."""
    reward_scaling: float = 0.1
    """Factor on rewards in the loss; returns are reported unscaled."""
    init_value_from_rollouts: bool = True
    """Before the first update, set the value's output bias to the best constant value."""
    vf_loss_coefficient: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float | None = 1.0
    """Clip gradients to this global norm; `None` does not clip."""
    bootstrap_on_timeout: bool = False
    """At the time limit, add the discounted value of the last observation to the reward."""

    normalize_observations: bool = True
    """Normalise observations by running statistics; images are left as they are."""
    normalize_observations_std_eps: float = 0.0
    """Added to the variance when observations are normalised."""

    num_evals: int = 10
    """Evaluations in a run, including the one before training."""
    num_eval_envs: int = 128
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
        for field in fields(PPOConfig):
            self._check(field.name, field.type, getattr(self, field.name))
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

    def _check(self, name: str, annotation: Any, value: Any) -> None:
        """Refuses a value that is of another type or out of range."""
        if annotation is Schedule:
            right, what = value in get_args(Schedule), f"one of {', '.join(get_args(Schedule))}"
        elif annotation is bool:
            right, what = isinstance(value, bool), "true or false"
        elif value is None and annotation == float | None:
            right, what = True, ""
        elif isinstance(value, bool) or not isinstance(value, int | float):
            right, what = False, "a plain Python number"
        elif annotation is int and not isinstance(value, int):
            right, what = False, "a whole number"
        else:
            in_range, what = RANGES.get(name, (lambda x: 0 < x < 3e38, "greater than 0"))
            right = in_range(value)
        if not right:
            what += ", or None" * (annotation == float | None)
            raise UsageError(f"{name} is {value!r}, which has to be {what}.")


LARGEST = 1_000_000
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(
        ("discounting", "gae_lambda"),
        (lambda x: 0 <= x <= 1, "from 0 to 1"),
    ),
    **dict.fromkeys(
        ("entropy_cost", "vf_loss_coefficient", "normalize_observations_std_eps"),
        (lambda x: 0 <= x < 3e38, "0 or more"),
    ),
    **dict.fromkeys(
        (
            *("num_envs", "unroll_length", "batch_size", "num_minibatches", "num_seeds"),
            *("num_updates_per_batch", "num_eval_envs", "action_repeat"),
        ),
        (lambda x: 1 <= x <= LARGEST, f"from 1 to {LARGEST:,}"),
    ),
    "episode_length": (lambda x: 1 <= x <= 10**7, f"from 1 to {10**7:,}"),
    "seed": (lambda x: 0 <= x < 2**32, f"from 0 to {2**32 - 1}"),
    "num_evals": (
        lambda x: 2 <= x <= LARGEST,
        f"from 2 to {LARGEST:,}: one before training and one after",
    ),
}
