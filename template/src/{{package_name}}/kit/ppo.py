"""Proximal policy optimisation as pure functions. The template's: not for editing.

The algorithm is Brax's (`brax.training.agents.ppo`), and so are its parts: loss, networks, acting,
running statistics. What is different is who drives them: `ppo.train` there is one long function
that compiles many small programs, cannot resume and calls what newer JAX no longer has; here are
`init`, `update`, `evaluate` and `epoch`, to be jitted, resumed or vmapped over seeds as you please.
Keys are split as in `ppo.train`, so that both give the same parameters from the same seed.

Schulman et al. 2017, arXiv:1707.06347; advantages: Schulman et al. 2016, arXiv:1506.02438.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, get_args

import flax
import jax
import jax.numpy as jnp
import optax
from brax.envs.base import Env, State
from brax.training import acting, types
from brax.training.acme import running_statistics, specs
from brax.training.agents.ppo import losses
from brax.training.agents.ppo.networks import PPONetworks, make_inference_fn

from .rollout import run_episodes
from .wrappers import Resets, wrap_for_training

Metrics = dict[str, jax.Array]


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO; the names are those of `ppo.train`."""

    num_timesteps: int = 1_000_000
    """Environment steps to train for; rounded up to whole updates."""
    episode_length: int = 1000
    """Steps after which an episode is cut off."""
    action_repeat: int = 1
    """How often each action is applied."""
    resets: Resets = "fresh"
    """Where episodes start: anew, at one of a pool of starts, or all at one, as in Brax."""
    num_starts: int = 256
    """Starts in the pool; for a `reset` that costs much more than a step."""
    seed: int = 0
    """Everything random in a run follows from it."""

    num_envs: int = 16
    """Environments that run side by side; has to divide batch_size x num_minibatches."""
    unroll_length: int = 16
    """Steps in each piece of an episode that is learnt from."""
    batch_size: int = 16
    """Pieces in a minibatch."""
    num_minibatches: int = 16
    """Minibatches collected for an update."""
    num_updates_per_batch: int = 8
    """Passes over them, each in a new order."""

    learning_rate: float = 1e-3
    """Adam's step size."""
    entropy_cost: float = 1e-2
    """Weight of the entropy bonus; more explores longer."""
    discounting: float = 0.95
    """What a reward is worth one step later."""
    gae_lambda: float = 0.95
    """0 trusts the value network's estimates, 1 the returns seen."""
    clipping_epsilon: float = 0.3
    """How far a policy may move from the one that collected the data."""
    reward_scaling: float = 0.1
    """Factor on rewards inside the loss; results are reported unscaled."""
    vf_loss_coefficient: float = 0.5
    """Weight of the value network's loss."""
    max_grad_norm: float | None = 1.0
    """Longer gradients are shortened to this; `None` leaves them."""
    normalize_observations: bool = True
    """Whether observations are brought to mean 0 and deviation 1 as they come."""

    num_evals: int = 10
    """Evaluations in a run, the one before training included."""
    num_eval_envs: int = 128
    """Episodes in each evaluation."""
    deterministic_eval: bool = True
    """Whether evaluation takes the likeliest action rather than a sample."""

    @property
    def steps_per_update(self) -> int:
        """Environment steps that one update collects."""
        pieces = self.batch_size * self.num_minibatches
        return pieces * self.unroll_length * self.action_repeat

    @property
    def num_updates(self) -> int:
        """Updates in the whole run."""
        return -(-self.num_timesteps // self.steps_per_update)

    def problems(self) -> list[str]:
        """What PPO could not run with, a sentence each that says what would be right."""
        found = []
        for field in fields(PPOConfig):
            value, name = getattr(self, field.name), field.name
            if name == "resets":
                if value not in (known := get_args(Resets)):
                    found.append(f"resets is {value!r}; it has to be one of {', '.join(known)}.")
            elif name == "seed":
                if not 0 <= value < 2**32:
                    found.append(f"seed is {value}; it has to be from 0 to {2**32 - 1}.")
            elif name in ("discounting", "gae_lambda"):
                if not 0 <= value <= 1:
                    found.append(f"{name} is {value}; it has to be from 0 to 1.")
            elif name in ("entropy_cost", "vf_loss_coefficient"):
                if not 0 <= value < math.inf:
                    found.append(f"{name} is {value}; it has to be 0 or more.")
            elif name == "num_evals":
                if value < 2:
                    found.append("num_evals has to be 2 or more: one before training, one after.")
            elif isinstance(value, bool) or value is None:
                continue
            elif not 0 < value < math.inf:
                found.append(f"{name} is {value}; it has to be greater than 0.")
        if found:
            return found
        pieces = self.batch_size * self.num_minibatches
        if pieces % self.num_envs:
            near = sorted(
                (n for n in range(1, pieces + 1) if pieces % n == 0),
                key=lambda n: abs(n - self.num_envs),
            )[:2]
            batch = self.num_envs // math.gcd(self.num_envs, self.num_minibatches)
            batch *= max(1, round(self.batch_size / batch))
            found.append(
                f"num_envs is {self.num_envs}; it has to divide batch_size x num_minibatches = "
                f"{pieces}: take num_envs {' or '.join(map(str, sorted(near)))}, "
                f"or batch_size {batch}."
            )
        if self.episode_length % self.action_repeat:
            below = self.episode_length - self.episode_length % self.action_repeat
            found.append(
                f"episode_length is {self.episode_length}; it has to be a multiple of "
                f"action_repeat = {self.action_repeat}: take {below or self.action_repeat}."
            )
        elif self.episode_length // self.action_repeat < 2:
            found.append(
                f"episode_length is {self.episode_length}; it has to leave 2 steps or more: "
                "PPO learns nothing from a step at which the episode is cut off; for one-step "
                f"episodes set done in step, and episode_length {2 * self.action_repeat}."
            )
        return found


@flax.struct.dataclass
class TrainingState:
    """Everything that training goes on from.

    Attributes:
      params: weights of the policy and the value network.
      optimizer_state: Adam's moments.
      normalizer_params: running mean and deviation of the observations.
      env_state: the environments as they stand, batched by num_envs.
      key: (2,) uint32, split at each update.
      updates: () int32, how many updates were made.
    """

    params: losses.PPONetworkParams
    optimizer_state: optax.OptState
    normalizer_params: running_statistics.RunningStatisticsState
    env_state: State
    key: jax.Array
    updates: jax.Array


@dataclass(frozen=True)
class PPO:
    """The pure functions of one task; see `make_ppo`.

    Attributes:
      networks: what `network_factory` built.
      init: `seed` () uint32 -> `TrainingState`.
      update: `TrainingState` -> the next one and the losses, averaged over the update.
      evaluate: `TrainingState` -> returns and metrics of num_eval_envs whole episodes.
      epoch: `TrainingState`, `updates` () int32 -> the state after so many updates, and the metrics
        of training (zeros when there were none) and of the evaluation that follows.
    """

    networks: PPONetworks
    init: Callable[[jax.Array], TrainingState]
    update: Callable[[TrainingState], tuple[TrainingState, Metrics]]
    evaluate: Callable[[TrainingState], Metrics]
    epoch: Callable[[TrainingState, jax.Array], tuple[TrainingState, Metrics]]


def policy_params(state: TrainingState) -> tuple[Any, Any, Any]:
    """What Brax's `make_inference_fn` takes: normaliser, policy and value parameters."""
    return state.normalizer_params, state.params.policy, state.params.value


def make_ppo(
    environment: Env,
    config: PPOConfig,
    network_factory: types.NetworkFactory[PPONetworks],
    wrap_env_fn: Callable[..., Env] | None = None,
) -> PPO:
    """Builds the functions that train `environment`; compiles and runs nothing.

    Args:
      environment: one environment, not yet batched.
      config: settings without `problems()`.
      network_factory: as `ppo.train` takes it.
      wrap_env_fn: as `ppo.train` takes it; `wrap_for_training`, as `config` says, if None.

    Raises:
      ValueError: PPO can't run with these settings.
    """
    if problems := config.problems():
        raise ValueError(" ".join(problems))

    def wrap(**resets: Any) -> Env:
        wrap = wrap_env_fn or functools.partial(wrap_for_training, **resets)
        return wrap(
            environment, episode_length=config.episode_length, action_repeat=config.action_repeat
        )

    env = wrap(resets=config.resets, num_starts=config.num_starts)
    # An evaluation looks at one episode of each: no other start is needed.
    eval_env = wrap(resets="cached")
    key_shape = jax.ShapeDtypeStruct((config.num_envs, 2), jnp.uint32)
    obs_shape = jax.tree.map(lambda x: x.shape[1:], jax.eval_shape(env.reset, key_shape).obs)
    networks = network_factory(
        obs_shape,
        env.action_size,
        preprocess_observations_fn=(
            running_statistics.normalize
            if config.normalize_observations
            else types.identity_observation_preprocessor
        ),
    )
    make_policy = make_inference_fn(networks)
    optimizer = optax.adam(config.learning_rate)
    if config.max_grad_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optimizer)
    loss_and_grad = jax.value_and_grad(
        functools.partial(
            losses.compute_ppo_loss,
            ppo_network=networks,
            entropy_cost=config.entropy_cost,
            discounting=config.discounting,
            reward_scaling=config.reward_scaling,
            gae_lambda=config.gae_lambda,
            clipping_epsilon=config.clipping_epsilon,
            vf_coefficient=config.vf_loss_coefficient,
        ),
        has_aux=True,
    )

    def init(seed: jax.Array) -> TrainingState:
        global_key, local_key = jax.random.split(jax.random.PRNGKey(seed))
        local_key = jax.random.fold_in(local_key, 0)
        local_key, key_env, _ = jax.random.split(local_key, 3)
        key_policy, key_value = jax.random.split(global_key)
        epoch_key, _ = jax.random.split(local_key)

        env_state = env.reset(jax.random.split(key_env, config.num_envs))
        params = losses.PPONetworkParams(
            policy=networks.policy_network.init(key_policy),
            value=networks.value_network.init(key_value),
        )
        state = TrainingState(
            params=params,
            optimizer_state=optimizer.init(params),
            normalizer_params=running_statistics.init_state(
                jax.tree.map(
                    lambda x: specs.Array(x.shape[-1:], jnp.dtype("float32")),
                    without_pixels(env_state.obs),
                )
            ),
            env_state=env_state,
            key=jax.random.split(epoch_key, 1)[0],
            updates=jnp.zeros((), jnp.int32),
        )
        # An environment may hand out weakly typed numbers; a loop would hand back others.
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.asarray(x).dtype), state)

    def update(state: TrainingState) -> tuple[TrainingState, Metrics]:
        key_sgd, key_unroll, new_key = jax.random.split(state.key, 3)

        # COLLECT: pieces of episodes, (batch_size x num_minibatches, unroll_length, ...).
        policy = make_policy(policy_params(state))

        def collect(carry: tuple[State, jax.Array], _: None) -> tuple[tuple[State, jax.Array], Any]:
            env_state, key = carry
            key, next_key = jax.random.split(key)
            env_state, data = acting.generate_unroll(
                env, env_state, policy, key, config.unroll_length, extra_fields=("truncation",)
            )
            # The loss needs the observation after the last step alone; dropping the others
            # nearly halves the memory of a batch.
            data = data._replace(next_observation=jax.tree.map(lambda x: x[None], env_state.obs))
            return (env_state, next_key), data

        rounds = config.batch_size * config.num_minibatches // config.num_envs
        (env_state, _), data = jax.lax.scan(
            collect, (state.env_state, key_unroll), None, length=rounds
        )
        data = jax.tree.map(lambda x: jnp.swapaxes(x, 1, 2), data)
        data = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data)

        # NORMALISE: the statistics take the new observations in before the loss uses them.
        normalizer_params = running_statistics.update(
            state.normalizer_params, without_pixels(data.observation)
        )

        # LEARN: passes over the pieces, each in a new order, one gradient step for a minibatch.
        def learn_from_minibatch(carry: Any, pieces: jax.Array) -> Any:
            params, optimizer_state, key = carry
            key, key_loss = jax.random.split(key)
            minibatch = jax.tree.map(lambda x: x[pieces], data)
            (_, metrics), grads = loss_and_grad(params, normalizer_params, minibatch, key_loss)
            change, optimizer_state = optimizer.update(grads, optimizer_state)
            return (optax.apply_updates(params, change), optimizer_state, key), metrics

        def learn_from_all(carry: Any, _: Any) -> Any:
            params, optimizer_state, key = carry
            key, key_order, key_grad = jax.random.split(key, 3)
            order = jax.random.permutation(key_order, config.batch_size * config.num_minibatches)
            (params, optimizer_state, _), metrics = jax.lax.scan(
                learn_from_minibatch,
                (params, optimizer_state, key_grad),
                order.reshape(config.num_minibatches, config.batch_size),
            )
            return (params, optimizer_state, key), metrics

        (params, optimizer_state, _), metrics = jax.lax.scan(
            learn_from_all,
            (state.params, state.optimizer_state, key_sgd),
            None,
            length=config.num_updates_per_batch,
        )
        state = TrainingState(
            params=params,
            optimizer_state=optimizer_state,
            normalizer_params=normalizer_params,
            env_state=env_state,
            key=new_key,
            updates=state.updates + 1,
        )
        return state, jax.tree.map(jnp.mean, metrics)

    def evaluate(state: TrainingState) -> Metrics:
        episodes = run_episodes(
            eval_env,
            make_policy(policy_params(state), deterministic=config.deterministic_eval),
            # A key of its own, so that training is the same however often it is evaluated.
            jax.random.fold_in(jax.random.PRNGKey(config.seed), state.updates),
            num_envs=config.num_eval_envs,
            num_steps=config.episode_length // config.action_repeat,
        )
        metrics = {
            "eval/episode_reward_std": jnp.std(episodes.episode_metrics["reward"]),
            "eval/avg_episode_length": jnp.mean(episodes.episode_steps),
        }
        for name, values in episodes.episode_metrics.items():
            metrics[f"eval/episode_{name}"] = jnp.mean(values)
        return metrics

    def epoch(state: TrainingState, updates: jax.Array) -> tuple[TrainingState, Metrics]:
        def body(_: jax.Array, carry: tuple[TrainingState, Metrics]) -> Any:
            state, total = carry
            state, metrics = update(state)
            return state, jax.tree.map(jnp.add, total, metrics)

        shapes = jax.eval_shape(update, state)[1]
        total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        state, total = jax.lax.fori_loop(0, updates, body, (state, total))
        training = {f"training/{name}": x / jnp.maximum(updates, 1) for name, x in total.items()}
        return state, {**training, **evaluate(state)}

    return PPO(networks=networks, init=init, update=update, evaluate=evaluate, epoch=epoch)


def without_pixels(obs: types.Observation) -> types.Observation:
    """Images have a scale already: Brax keeps no statistics of `pixels/...` entries."""
    if not isinstance(obs, dict):
        return obs
    return {key: value for key, value in obs.items() if not key.startswith("pixels/")}
