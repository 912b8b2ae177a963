"""The scale of the rewards, where the value starts, and what follows a time limit."""

from typing import TYPE_CHECKING

import flax
import jax
import jax.numpy as jnp
from brax.training import types
from brax.training.agents.ppo.networks import PPONetworks

from .networks import ValueNetwork
from .settings import PPOConfig

if TYPE_CHECKING:
    from .state import TrainingState

VALUES = ("value", "final_value")  # entries of a rollout's extras that the value network gave


class RewardScale(flax.struct.PyTreeNode):
    """How large rewards are, as means over the updates so far, () float32 each.

    Attributes:
      td_error: mean square of the TD errors that the best constant value leaves.
      reward: mean square of the rewards.
    """

    td_error: jax.Array
    reward: jax.Array

    def divisor(self) -> jax.Array:
        """What rewards are divided by, () float32: the root mean square TD error.

        Where a constant value explains the rewards (each step has the same one, and no episode has
        ended yet), it is their root mean square; 1 where there was no reward at all.
        """
        td_error, reward = jnp.sqrt(self.td_error), jnp.sqrt(self.reward)
        size = jnp.where(td_error > 1e-3 * reward, td_error, reward)
        return jnp.where(size > 0, size, 1.0)


def fit_constant_value(
    data: types.Transition, discounting: jax.Array
) -> tuple[jax.Array, RewardScale]:
    """The value that is the same in every state, of unscaled rewards, and what it leaves.

    It is the fixed point of temporal-difference learning with a constant as the only feature
    (Bradtke and Barto 1996). Steps that the time limit cut off are left out.
    """
    counts = 1 - data.extras["state_extras"]["truncation"]
    steps = jnp.maximum(jnp.sum(counts), 1.0)
    horizon = jnp.sum(counts * (1 - discounting * data.discount))
    # Without discounting and without an end there is no such constant.
    reward = jnp.sum(counts * data.reward)
    value = jnp.where(horizon > 0, reward / jnp.where(horizon > 0, horizon, 1.0), 0.0)
    td_error = data.reward + (discounting * data.discount - 1) * value
    # Rewards may be float64, with JAX_ENABLE_X64.
    return jnp.float32(value), RewardScale(
        td_error=jnp.float32(jnp.sum(counts * td_error**2) / steps),
        reward=jnp.float32(jnp.sum(counts * data.reward**2) / steps),
    )


def rescale(
    state: "TrainingState", data: types.Transition, networks: PPONetworks, settings: PPOConfig
) -> tuple["TrainingState", types.Transition, jax.Array]:
    """Brings rewards and value to the present scale; starts a value that has not learned.

    The scale of the rewards changes while it is measured. The value's output layer changes with it,
    so that the value stays what it was in rewards (van Hasselt et al. 2016, arXiv:1602.07714).
    A new value starts at the best constant. One that starts elsewhere moves there over many
    updates, and moves furthest in the observations furthest from the mean: where it falls, the
    policy learns to avoid what it has rarely seen.

    Returns:
      The state and the rollouts, both with the new value, and the factor on rewards, ().
    """
    factors = state.hyperparameters
    constant, measured = fit_constant_value(data, factors.discounting)
    change = divisor = jnp.float32(1)
    if settings.normalize_rewards:
        before = state.reward_scale
        scale = jax.tree.map(
            lambda mean, x: mean + (x - mean) / (state.updates + 1), before, measured
        )
        divisor = scale.divisor()
        change = jnp.where(before.reward > 0, before.divisor() / divisor, 1.0)
        state = state.replace(reward_scale=scale)
    scaling = factors.reward_scaling / divisor
    network, start = networks.value_network, jnp.float32(0)
    if not isinstance(network, ValueNetwork):
        return state, data, scaling  # of a network factory of the user's own
    if settings.init_value_from_rollouts:
        is_new = (state.updates == 0) & network.is_new(state.params.value)
        start = jnp.where(is_new, scaling * constant, 0.0)
    value = network.change_output(state.params.value, change, start)
    state = state.replace(params=state.params.replace(value=value))
    extras = jax.tree_util.tree_map_with_path(
        lambda path, x: change * x + start if path[-1].key in VALUES else x, data.extras
    )
    return state, data._replace(extras=extras), scaling


def bootstrap(
    data: types.Transition, discounting: jax.Array, scaling: jax.Array
) -> types.Transition:
    """Turns a time limit into an end that pays the value of what would have followed.

    Brax adds the value of the observation before the last step (`bootstrap_on_timeout`).
    Pardo et al. 2018, arXiv:1712.00378.

    Args:
      data: rollouts with the value of the true last observation, `final_value`, in their extras.
      discounting: discount factor, ().
      scaling: factor on rewards, (); values are of scaled rewards.
    """
    extras = data.extras["state_extras"]
    bonus = discounting * extras["final_value"] * extras["truncation"] / scaling
    extras = {"truncation": jnp.zeros_like(extras["truncation"])}
    return data._replace(reward=data.reward + bonus, extras={**data.extras, "state_extras": extras})
