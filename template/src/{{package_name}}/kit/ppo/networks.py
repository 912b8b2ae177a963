"""Policy and value networks for PPO: observation -> encoder -> policy head and value head.

An observation is a vector (n,), or a dict of vectors and of images, whose keys start with
"pixels/". Brax keeps running statistics of the vectors and none of the images.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env
from brax.training import networks, types
from brax.training.agents.ppo.networks import PPONetworks, make_inference_fn
from flax import linen as nn

from ..env.actions import ActionSpace, action_space_of, known_space
from ..errors import UsageError

PIXELS = "pixels/"  # Brax's prefix for images
MLP = "MLP_0"  # what flax calls the layers behind the encoder
PRIVILEGED = "privileged"  # Brax's prefix for what the policy may not see


@dataclass
class ValueNetwork(networks.FeedForwardNetwork):
    """A value network whose output can be changed without learning.

    Attributes:
      output_layer: the name of its last layer, in Brax's MLP.
    """

    output_layer: str = ""

    def is_new(self, params: Any) -> jax.Array:
        """Whether the last layer is all zeros, as before the first update, () bool."""
        layer = params["params"][MLP][self.output_layer]
        return jnp.all(layer["kernel"] == 0) & jnp.all(layer["bias"] == 0)

    def change_output(self, params: Any, factor: jax.Array, shift: jax.Array) -> Any:
        """Parameters that give `factor * value + shift`; both are ()."""
        layer = params["params"][MLP][self.output_layer]
        layer = {"kernel": factor * layer["kernel"], "bias": factor * layer["bias"] + shift}
        mlp = {**params["params"][MLP], self.output_layer: layer}
        return {**params, "params": {**params["params"], MLP: mlp}}


@dataclass(frozen=True)
class NetworkFactory:
    """Builds `PPONetworks`; see `make_network_factory`."""

    action_space: ActionSpace
    encoder: nn.Module | None
    policy_obs_keys: tuple[str, ...] | None
    value_obs_keys: tuple[str, ...] | None
    policy_hidden_layer_sizes: tuple[int, ...]
    value_hidden_layer_sizes: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array]

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
          observation_size: the shape of an observation: `(n,)`, or a dict of shapes.
          action_size: what the environment declares.
          preprocess_observations_fn: normalises vectors.

        Raises:
          UsageError: the networks don't fit the observation or the actions.
        """
        if action_size != self.action_space.size:
            raise UsageError(
                f"The networks are built for {self.action_space}, but action_size is "
                f"{action_size}; make_network_factory needs the environment's own action space."
            )
        shapes = observation_shapes(observation_size)
        distribution = self.action_space.distribution()
        policy_keys = self.policy_obs_keys
        if policy_keys is None and isinstance(shapes, dict):
            policy_keys = tuple(key for key in shapes if not key.startswith(PRIVILEGED))
        policy = self._network(
            (*self.policy_hidden_layer_sizes, distribution.param_size),
            shapes,
            policy_keys,
            preprocess_observations_fn,
        )
        # The value starts at 0 everywhere: differences between observations would mean nothing yet.
        baseline = self._network(
            (*self.value_hidden_layer_sizes, 1),
            shapes,
            self.value_obs_keys,
            preprocess_observations_fn,
            nn.initializers.zeros,
        )
        value = ValueNetwork(
            baseline.init,
            lambda *args: jnp.squeeze(baseline.apply(*args), -1),
            output_layer=f"hidden_{len(self.value_hidden_layer_sizes)}",
        )
        return PPONetworks(policy, value, distribution)

    def _network(
        self,
        layer_sizes: Sequence[int],
        shapes: Any,
        keys: tuple[str, ...] | None,
        preprocess_observations_fn: types.PreprocessObservationFn,
        output_init: nn.initializers.Initializer | None = None,
    ) -> networks.FeedForwardNetwork:
        """One head behind an encoder of its own. It sees `keys` of a dict observation."""
        seen = _select(shapes, keys)
        images = [key for key in seen if key.startswith(PIXELS)] if isinstance(seen, dict) else []
        if images and self.encoder is None:
            raise UsageError(
                f"The observation has an image, {images[0]}, which takes an encoder: give "
                "make_network_factory one, or name the vectors to use instead with "
                "policy_obs_keys and value_obs_keys."
            )
        encoder = self.encoder or Concatenate()
        module = Head(encoder, tuple(layer_sizes), self.activation, output_init)

        def init(key: jax.Array) -> Any:
            observation = jax.tree.map(
                lambda shape: jnp.zeros((1, *shape), jnp.float32), seen, is_leaf=_is_shape
            )
            return module.init(key, observation, observation)

        def apply(processor_params: Any, params: Any, observation: Any) -> Any:
            if not isinstance(seen, dict):
                normalized = preprocess_observations_fn(observation, processor_params)
                return module.apply(params, observation, normalized)
            observation = {key: observation[key] for key in seen}
            normalized = {
                key: x
                if key.startswith(PIXELS)
                else preprocess_observations_fn(
                    x, networks.normalizer_select(processor_params, key)
                )
                for key, x in observation.items()
            }
            return module.apply(params, observation, normalized)

        return networks.FeedForwardNetwork(init=init, apply=apply)


def make_network_factory(
    action_space: ActionSpace,
    *,
    encoder: nn.Module | None = None,
    policy_obs_keys: Sequence[str] | None = None,
    value_obs_keys: Sequence[str] | None = None,
    policy_hidden_layer_sizes: Sequence[int] = (64, 64),
    value_hidden_layer_sizes: Sequence[int] = (64, 64),
    activation: Callable[[jax.Array], jax.Array] = nn.swish,
) -> NetworkFactory:
    """What `brax.training.agents.ppo.train` takes as `network_factory`.

    Args:
      action_space: the environment's.
      encoder: a flax module that is called with `(observation, normalized)` and returns features,
        (..., m) float32. Both arguments are vectors (..., n), or dicts of the entries that the
        head sees; in the second the running statistics have normalised the vectors, while images
        are as the environment gave them. Policy and value each train an encoder of their own.
        If None, vectors are concatenated.
      policy_obs_keys: the entries of a dict observation that the policy sees; all whose names
        don't start with "privileged" if None.
      value_obs_keys: the entries that the value network sees; all if None.
      policy_hidden_layer_sizes: widths of the policy's layers, behind the encoder.
      value_hidden_layer_sizes: widths of the value network's layers, behind the encoder.
      activation: of the hidden layers behind the encoder.

    Raises:
      UsageError: `policy_obs_keys` or `value_obs_keys` is a string, or `action_space` is not one.
    """
    known_space(action_space)
    for keys in (policy_obs_keys, value_obs_keys):
        if isinstance(keys, str):
            raise UsageError(f"The keys of an observation are a list of names: [{keys!r}].")
    return NetworkFactory(
        action_space,
        encoder,
        None if policy_obs_keys is None else tuple(policy_obs_keys),
        None if value_obs_keys is None else tuple(value_obs_keys),
        tuple(policy_hidden_layer_sizes),
        tuple(value_hidden_layer_sizes),
        activation,
    )


class Head(nn.Module):
    """An encoder with an MLP behind it."""

    encoder: nn.Module
    layer_sizes: Sequence[int]
    activation: Callable[[jax.Array], jax.Array]
    output_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, observation: Any, normalized: Any) -> jax.Array:
        mlp = networks.MLP(
            layer_sizes=self.layer_sizes,
            activation=self.activation,
            output_kernel_init=self.output_init,
        )
        return mlp(self.encoder(observation, normalized))


class Concatenate(nn.Module):
    """The default encoder: the normalised vectors, one after the other."""

    def __call__(self, observation: Any, normalized: Any) -> jax.Array:
        return jnp.concatenate(jax.tree.leaves(normalized), axis=-1)


def observation_shapes(observation_size: types.ObservationSize) -> Any:
    """The shape of each entry as a tuple of ints: `4` is (4,).

    Raises:
      UsageError: PPO can't train on such an observation.
    """
    if not isinstance(observation_size, Mapping):
        shape = _shape(observation_size)
        if len(shape) != 1:
            raise UsageError(
                f"The observation has shape {shape}, but a flat one is a vector: flatten it, or "
                'give it a name as in {"pixels/view": image}.'
            )
        return shape
    if not observation_size:
        raise UsageError("The observation is an empty dict.")
    if nested := [key for key, size in observation_size.items() if isinstance(size, Mapping)]:
        raise UsageError(
            f"The observation's entry {nested[0]!r} is a dict; an entry has to be one array."
        )
    shapes = {key: _shape(size) for key, size in observation_size.items()}
    for key, shape in shapes.items():
        if len(shape) != 1 and not key.startswith(PIXELS):
            raise UsageError(
                f"The observation's entry {key!r} has shape {shape}, but only an image may have "
                f'more than one axis: flatten it, or name it "{PIXELS}{key}".'
            )
    return shapes


def without_images(obs: Any) -> Any:
    """What running statistics are kept of: Brax leaves images as they are."""
    if not isinstance(obs, Mapping):
        return obs
    return {key: value for key, value in obs.items() if not key.startswith(PIXELS)}


def _select(shapes: Any, keys: tuple[str, ...] | None) -> Any:
    if keys is None:
        return shapes
    if not isinstance(shapes, dict):
        raise UsageError(
            f"The networks are to see the entries {', '.join(keys)}, but the observation is flat."
        )
    if not keys:
        raise UsageError("The policy or the value network would see no entry of the observation.")
    if missing := [key for key in keys if key not in shapes]:
        raise UsageError(
            f"The observation has no entry {missing[0]!r}; its entries are {', '.join(shapes)}."
        )
    return {key: shapes[key] for key in keys}


def _shape(size: Any) -> tuple[int, ...]:
    shape = tuple(size) if isinstance(size, (tuple, list)) else (size,)
    try:
        return tuple(operator.index(length) for length in shape)
    except TypeError:
        raise UsageError("The observation has to be one array, or a dict of arrays.") from None


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple)


def refuse_what_does_not_fit(
    env: Env, obs: Any, ppo_networks: PPONetworks, statistics: Any
) -> None:
    """Traces the policy once. Raises UsageError where PPO would fail or learn something else."""
    entries = obs if isinstance(obs, dict) else {"obs": obs}
    for key, entry in entries.items():
        if not key.startswith(PIXELS) and not jnp.issubdtype(entry.dtype, jnp.floating):
            raise UsageError(
                f"The observation{'' if key == 'obs' else f' {key!r}'} is {entry.dtype}, which "
                "has to be float32: use .astype(jnp.float32)."
            )

    def act(key: jax.Array, obs: Any, statistics: Any) -> jax.Array:
        params = (statistics, ppo_networks.policy_network.init(key), None)
        return make_inference_fn(ppo_networks)(params)(obs, key)[0]

    space = action_space_of(env)
    action = jax.eval_shape(act, jax.ShapeDtypeStruct((2,), jnp.uint32), obs, statistics)
    # With JAX_ENABLE_X64 a float is float64.
    if action.shape[1:] != space.shape or action.dtype.kind != space.dtype.kind:
        raise UsageError(
            f"The networks give actions of shape {action.shape[1:]} and dtype {action.dtype}, but "
            f"the environment takes {space}: build them for the environment's own action space."
        )
