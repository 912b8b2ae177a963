"""Policy and value networks for PPO. The template's: not for editing.

`make_network_factory` gives what `brax.training.agents.ppo.train` takes as `network_factory`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from brax.training import distribution, networks, types
from brax.training.agents.ppo.networks import PPONetworks
from flax import linen as nn

Actions = Literal["continuous", "discrete"]


@dataclass(frozen=True)
class NetworkFactory:
    """Builds `PPONetworks`; see `make_network_factory`."""

    actions: Actions
    encoder: nn.Module | None
    policy_hidden_layer_sizes: Sequence[int]
    value_hidden_layer_sizes: Sequence[int]
    policy_obs_key: str
    value_obs_key: str

    def __call__(
        self,
        observation_size: types.ObservationSize,
        action_size: int,
        preprocess_observations_fn: types.PreprocessObservationFn = (
            types.identity_observation_preprocessor
        ),
    ) -> PPONetworks:
        """Builds the networks.

        Args:
          observation_size: the shape of an observation, `(n,)` or a dict of such; `n` will do.
          action_size: the length of an action, or the number of choices.
          preprocess_observations_fn: normalises observations.
        """
        actions: distribution.ParametricDistribution
        if self.actions == "discrete":
            actions = CategoricalDistribution(action_size)
        else:
            actions = distribution.NormalTanhDistribution(event_size=action_size)

        if self.encoder is None:
            policy = networks.make_policy_network(
                actions.param_size,
                observation_size,
                preprocess_observations_fn,
                hidden_layer_sizes=self.policy_hidden_layer_sizes,
                activation=nn.swish,
                obs_key=self.policy_obs_key,
            )
            value = networks.make_value_network(
                observation_size,
                preprocess_observations_fn,
                hidden_layer_sizes=self.value_hidden_layer_sizes,
                activation=nn.swish,
                obs_key=self.value_obs_key,
            )
        else:
            policy = _make_encoded_network(
                Encoded(self.encoder, (*self.policy_hidden_layer_sizes, actions.param_size)),
                observation_size,
                preprocess_observations_fn,
            )
            baseline = _make_encoded_network(
                Encoded(self.encoder, (*self.value_hidden_layer_sizes, 1)),
                observation_size,
                preprocess_observations_fn,
            )
            value = networks.FeedForwardNetwork(
                init=baseline.init, apply=lambda *args: jnp.squeeze(baseline.apply(*args), -1)
            )
        return PPONetworks(
            policy_network=policy, value_network=value, parametric_action_distribution=actions
        )


def make_network_factory(
    *,
    actions: Actions,
    encoder: nn.Module | None = None,
    policy_hidden_layer_sizes: Sequence[int] = (64, 64),
    value_hidden_layer_sizes: Sequence[int] = (64, 64),
    policy_obs_key: str = "state",
    value_obs_key: str = "state",
) -> NetworkFactory:
    """Says how policy and value networks are built, for any sizes.

    Args:
      actions: "continuous" for a tanh-squashed normal in [-1, 1]^n, "discrete" for a categorical
        over n choices, whose samples are () int32.
      encoder: a flax module that is called with `(observation, normalized)`, both (..., n) float32
        and the second normalised by the running statistics, and gives features, (..., m) float32.
        Policy and value each train a copy of their own. None for observations that go straight in.
      policy_hidden_layer_sizes: widths of the policy's layers, after the encoder.
      value_hidden_layer_sizes: widths of the value's layers, after the encoder.
      policy_obs_key: which entry of a dict observation the policy sees, without an encoder.
      value_obs_key: likewise for the value, which may see more than the policy does.

    Raises:
      ValueError: `actions` is neither of the two.
    """
    if actions not in ("continuous", "discrete"):
        raise ValueError(f"actions is {actions!r}; it has to be 'continuous' or 'discrete'.")
    return NetworkFactory(
        actions,
        encoder,
        tuple(policy_hidden_layer_sizes),
        tuple(value_hidden_layer_sizes),
        policy_obs_key,
        value_obs_key,
    )


class Encoded(nn.Module):
    """An encoder with an MLP behind it."""

    encoder: nn.Module
    layer_sizes: Sequence[int]

    @nn.compact
    def __call__(self, observation: jax.Array, normalized: jax.Array) -> jax.Array:
        features = self.encoder(observation, normalized)
        return networks.MLP(layer_sizes=self.layer_sizes, activation=nn.swish)(features)


def _make_encoded_network(
    module: Encoded,
    observation_size: types.ObservationSize,
    preprocess_observations_fn: types.PreprocessObservationFn,
) -> networks.FeedForwardNetwork:
    (size,) = jax.tree.leaves(observation_size)  # flat: `n` or `(n,)`

    def init(key: jax.Array) -> Any:
        observation = jnp.zeros((1, size))
        return module.init(key, observation, observation)

    def apply(processor_params: Any, params: Any, observation: jax.Array) -> Any:
        normalized = preprocess_observations_fn(observation, processor_params)
        return module.apply(params, observation, normalized)

    return networks.FeedForwardNetwork(init=init, apply=apply)


class CategoricalDistribution(distribution.ParametricDistribution):
    """A choice of one in `num_choices`, parametrised by logits (..., num_choices)."""

    def __init__(self, num_choices: int) -> None:
        super().__init__(
            param_size=num_choices,
            postprocessor=distribution.IdentityPostprocessor(),
            event_ndims=0,
            reparametrizable=False,
        )

    def create_dist(self, parameters: jax.Array) -> "Categorical":
        return Categorical(parameters)


class Categorical:
    """What Brax's loss and acting ask of a distribution; samples are (...) int32."""

    def __init__(self, logits: jax.Array) -> None:
        self._log_probs = nn.log_softmax(logits)
        # Brax's loss reports mean, least and greatest of these, whatever the distribution.
        self.loc = logits
        self.scale = jnp.sqrt(jnp.exp(self._log_probs) * (1 - jnp.exp(self._log_probs)))

    def sample(self, seed: jax.Array) -> jax.Array:
        return jax.random.categorical(seed, self._log_probs)

    def mode(self) -> jax.Array:
        return jnp.argmax(self._log_probs, axis=-1)

    def log_prob(self, x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(self._log_probs, x[..., None], axis=-1)[..., 0]

    def entropy(self) -> jax.Array:
        return -jnp.sum(jnp.exp(self._log_probs) * self._log_probs, axis=-1)

    def kl_divergence(self, old_dist: "Categorical") -> jax.Array:
        """KL(old_dist || self)."""
        old = old_dist._log_probs
        return jnp.sum(jnp.exp(old) * (old - self._log_probs), axis=-1)
