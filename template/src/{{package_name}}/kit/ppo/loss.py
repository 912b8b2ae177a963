"""The loss of PPO."""

from typing import Any

import jax
import jax.numpy as jnp
from brax.training import types
from brax.training.agents.ppo.losses import PPONetworkParams, compute_gae
from brax.training.agents.ppo.networks import PPONetworks

from .settings import PPOConfig
from .state import HyperParameters, Metrics


def ppo_loss(
    params: PPONetworkParams,
    statistics: Any,
    data: types.Transition,
    key: jax.Array,
    *,
    networks: PPONetworks,
    settings: PPOConfig,
    factors: HyperParameters,
) -> tuple[jax.Array, Metrics]:
    """The loss of a minibatch, as `brax.training.agents.ppo.losses.compute_ppo_loss` defines it.

    But steps that the time limit cut off are left out of the policy's loss and of the mean and the
    standard deviation of the advantages. What follows them is unknown. Brax sets their advantage to
    0 before it normalises: where most advantages are negative, being cut off is then encouraged.

    Args:
      params: what the gradient is taken of.
      statistics: running statistics that normalise the observations.
      data: rollouts, (batch_size, unroll_length, ...); next_observation has the last one alone.
      key: for the entropy, where it has no closed form.
      networks: of the policy and of the value.
      settings: which loss.
      factors: its numbers.

    Returns:
      The loss, (), and its parts.
    """
    distribution = networks.parametric_action_distribution
    data = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), data)  # time first
    last = jax.tree.map(lambda x: x[-1], data.next_observation)
    logits = networks.policy_network.apply(statistics, params.policy, data.observation)
    baseline = networks.value_network.apply(statistics, params.value, data.observation)
    last_value = networks.value_network.apply(statistics, params.value, last)

    cut_off = data.extras["state_extras"]["truncation"]
    targets, advantages = compute_gae(
        truncation=cut_off,
        termination=(1 - data.discount) * (1 - cut_off),
        rewards=data.reward * factors.reward_scaling,
        values=baseline,
        bootstrap_value=last_value,
        lambda_=factors.gae_lambda,
        discount=factors.discounting,
    )

    def mean(x: jax.Array) -> jax.Array:
        """Over the steps that were not cut off."""
        return jnp.sum((1 - cut_off) * x) / jnp.maximum(jnp.sum(1 - cut_off), 1.0)

    if settings.normalize_advantage:
        advantages -= mean(advantages)
        advantages /= jnp.sqrt(mean(advantages**2)) + 1e-8
    acted = data.extras["policy_extras"]
    ratio = jnp.exp(distribution.log_prob(logits, acted["raw_action"]) - acted["log_prob"])
    clipped = jnp.clip(ratio, 1 - factors.clipping_epsilon, 1 + factors.clipping_epsilon)
    policy_loss = -mean(jnp.minimum(ratio * advantages, clipped * advantages))

    squared_error = (targets - baseline) ** 2
    if settings.clipping_epsilon_value is not None:
        limit = settings.clipping_epsilon_value
        near = acted["value"] + jnp.clip(baseline - acted["value"], -limit, limit)
        squared_error = jnp.maximum(squared_error, (targets - near) ** 2)
    v_loss = settings.vf_loss_coefficient * 0.5 * jnp.mean(squared_error)

    entropy_loss = -factors.entropy_cost * jnp.mean(distribution.entropy(logits, key))
    loss = policy_loss + v_loss + entropy_loss
    policy = distribution.create_dist(logits)
    metrics = {
        "total_loss": loss,
        "policy_loss": policy_loss,
        "v_loss": v_loss,
        "entropy_loss": entropy_loss,
        "policy_dist_mean_std": jnp.mean(policy.scale),
    }
    if hasattr(policy, "kl_divergence"):
        before = distribution.create_dist(acted["distribution_params"])
        metrics["kl_mean"] = jnp.mean(policy.kl_divergence(before))
    return loss, metrics
