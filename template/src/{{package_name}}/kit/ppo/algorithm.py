"""Proximal policy optimisation as pure functions.

The loss, the acting and the running statistics are Brax's (`brax.training.agents.ppo`). Its
`ppo.train` is one long function that can't be resumed and calls what newer versions of JAX lack;
here are `init`, `update`, `epoch` and `evaluate`, to be jitted, or vmapped over seeds and over
`HyperParameters`. Keys are split as in `ppo.train`, so that both give the same parameters from the
same seed with `normalize_rewards=False`, `init_value_from_rollouts=False`,
and the learning rate constant or `adaptive_kl`.

PPO: Schulman et al. 2017, arXiv:1707.06347. Advantages: Schulman et al. 2016, arXiv:1506.02438.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import optax
from brax.envs.base import Env, State
from brax.training import acting, types
from brax.training.acme import running_statistics, specs
from brax.training.agents.ppo import losses
from brax.training.agents.ppo.networks import PPONetworks, make_inference_fn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from ..env.actions import action_space_of
from ..env.episodes import run_episodes, strip_weak_types
from ..env.wrappers import wrap_for_evaluation, wrap_for_training
from ..errors import UsageError
from .networks import PIXELS, ValueNetwork, observation_shapes, without_images
from .settings import PPOConfig
from .sharding import AXIS, ShardedWrapper, divide
from .state import HyperParameters, Metrics, RewardScale, Totals, TrainingState, policy_params

VALUES = ("value", "final_value")  # entries of a rollout's extras that the value network gave


@dataclass(frozen=True)
class PPO:
    """The pure functions that train one environment; see `make_ppo`.

    Attributes:
      networks: what `network_factory` built.
      init: `seed` () uint32 and `HyperParameters`, those of the settings if left out ->
        `TrainingState`.
      update: `TrainingState` -> the next one, and its `Totals`.
      epoch: `TrainingState`, `updates` () int32, 1 or more -> the state after so many updates, and
        their `Totals`.
      evaluate: `TrainingState` -> `eval/...` metrics of num_eval_envs whole episodes.
      training_env: `seed` () uint32 -> the batch of environments that `update` steps.
      evaluation_env: the same of `evaluate`.
      env_specs: how the devices of a mesh divide `env_state`; None if they don't.
    """

    networks: PPONetworks
    init: Callable[..., TrainingState]
    update: Callable[[TrainingState], tuple[TrainingState, Totals]]
    epoch: Callable[[TrainingState, ArrayLike], tuple[TrainingState, Totals]]
    evaluate: Callable[[TrainingState], Metrics]
    training_env: Callable[[ArrayLike], Env]
    evaluation_env: Callable[[ArrayLike], Env]
    env_specs: Any = None


def linear_schedule(update: ArrayLike, num_updates: int) -> jax.Array:
    """The share of the learning rate that the schedule `linear` uses in an update.

    1 in the first half of a run; then it falls to 0. Some seeds learn late, and a rate that falls
    from the start leaves them too little.

    Args:
      update: int32 of any shape, counted from 0.
      num_updates: those of the whole run.
    """
    left = 1 - jnp.asarray(update) / num_updates
    return jnp.clip(2 * left, 0.0, 1.0)


def make_ppo(
    environment: Env,
    config: PPOConfig,
    network_factory: types.NetworkFactory[PPONetworks],
    *,
    wrap_env_fn: Callable[..., Env] | None = None,
    randomization_fn: Callable[..., tuple[Any, Any]] | None = None,
    mesh: Mesh | None = None,
) -> PPO:
    """Builds the functions that train `environment`; compiles nothing.

    Args:
      environment: one environment, not batched.
      config: the settings.
      network_factory: as `ppo.train` takes it.
      wrap_env_fn: as `ppo.train` takes it; `wrap_for_training` if None.
      randomization_fn: domain randomisation, as `ppo.train` takes it, but traced. The randomised
        systems follow from the seed.
      mesh: devices that share the environments and the minibatches, with one axis; None for one
        device. The result is the same but for rounding.

    Raises:
      UsageError: PPO can't train this environment or these networks.
    """

    divisions: dict[str, State] = {}

    def wrap(own: Callable[..., Env], key: str, batch: int, seed: ArrayLike | None) -> Env:
        randomize = None
        if randomization_fn is not None and seed is not None:
            # Not the keys of the first reset: a system must not follow from its start. (`split`
            # gives what `fold_in` gives for 0, 1, 2 and so on.)
            rng = jax.random.split(jax.random.fold_in(_split(seed)[key], 2**32 - 1), batch)
            randomize = functools.partial(randomization_fn, rng=rng)
        env = (wrap_env_fn or own)(
            environment,
            episode_length=config.episode_length,
            action_repeat=config.action_repeat,
            randomization_fn=randomize,
        )
        # Randomised systems are as many as environments, and would have to be shared out too.
        if mesh is None or batch % mesh.size or randomization_fn is not None:
            return env
        if key not in divisions:
            divisions[key] = divide(env, batch)
        return ShardedWrapper(env, mesh, divisions[key])

    def training_env(seed: ArrayLike | None) -> Env:
        return wrap(wrap_for_training, "env", config.num_envs, seed)

    def evaluation_env(seed: ArrayLike) -> Env:
        """A batch of its own, which needs no auto-reset."""
        return wrap(wrap_for_evaluation, "eval", config.num_eval_envs, seed)

    env = training_env(None)  # not randomised, for its sizes
    reset = jax.eval_shape(env.reset, jax.ShapeDtypeStruct((config.num_envs, 2), jnp.uint32))
    if config.bootstrap_on_timeout and reset.info.get("final_obs") != reset.obs:
        raise UsageError(
            "bootstrap_on_timeout needs info['final_obs'], the observation that a step ended in, "
            "from wrap_env_fn, of the same shape as obs: let it change observations before it "
            "calls wrap_for_training, or set bootstrap_on_timeout=False."
        )
    # A wrapper of the user's may not count episodes as Brax's does.
    counts_episodes = {"episode_done", "episode_metrics"} <= reset.info.keys()
    obs_shapes = observation_shapes(jax.tree.map(lambda x: x.shape[1:], reset.obs))
    networks = network_factory(
        obs_shapes,
        env.action_size,
        preprocess_observations_fn=(
            running_statistics.normalize
            if config.normalize_observations
            else types.identity_observation_preprocessor
        ),
    )

    def init_statistics() -> Any:
        vectors = jax.tree.map(
            lambda shape: specs.Array(shape, jnp.dtype("float32")),
            without_images(obs_shapes),
            is_leaf=lambda x: isinstance(x, tuple),
        )
        return running_statistics.init_state(vectors, config.normalize_observations_std_eps)

    _refuse_what_does_not_fit(env, reset.obs, networks, jax.eval_shape(init_statistics))

    make_policy = make_inference_fn(
        networks, compute_value=config.clipping_epsilon_value is not None
    )
    optimizer = optax.scale_by_adam()
    if config.max_grad_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optimizer)
    loss = functools.partial(
        ppo_loss,
        ppo_network=networks,
        clipping_epsilon_value=config.clipping_epsilon_value,
        normalize_advantage=config.normalize_advantage,
        vf_coefficient=config.vf_loss_coefficient,
    )
    loss_and_grad = jax.value_and_grad(loss, has_aux=True)

    def init(seed: ArrayLike, hyperparameters: HyperParameters | None = None) -> TrainingState:
        factors = jax.tree.map(jnp.float32, hyperparameters or HyperParameters.of(config))
        keys = _split(seed)
        params = losses.PPONetworkParams(
            policy=networks.policy_network.init(keys["policy"]),
            value=networks.value_network.init(keys["value"]),
        )
        state = TrainingState(
            params=params,
            optimizer_state=optimizer.init(params),
            learning_rate=factors.learning_rate,
            hyperparameters=factors,
            normalizer_params=init_statistics(),
            reward_scale=RewardScale(jnp.float32(0), jnp.float32(0)),
            env_state=training_env(seed).reset(jax.random.split(keys["env"], config.num_envs)),
            key=keys["training"],
            eval_key=keys["eval"],
            seed=jnp.uint32(seed),
            updates=jnp.zeros((), jnp.int32),
        )
        return strip_weak_types(state)

    def collect(state: TrainingState, key: jax.Array) -> tuple[State, types.Transition, Any]:
        """Rollouts, (batch_size x num_minibatches, unroll_length, ...), and episodes that ended."""
        env = training_env(state.seed)
        policy = make_policy(policy_params(state))
        extra_fields = ["truncation"]
        if config.bootstrap_on_timeout:
            extra_fields.append("final_obs")
        if counts_episodes:
            extra_fields += ["episode_done", "episode_metrics"]

        def rollout(carry: tuple[State, jax.Array], _: None) -> tuple[tuple[State, jax.Array], Any]:
            env_state, key = carry
            key, next_key = jax.random.split(key)
            env_state, data = acting.generate_unroll(
                env, env_state, policy, key, config.unroll_length, extra_fields
            )
            extras = data.extras["state_extras"]
            kept = {"truncation": extras["truncation"]}
            if config.bootstrap_on_timeout:
                kept["final_value"] = networks.value_network.apply(
                    state.normalizer_params, state.params.value, extras["final_obs"]
                )
            # The loss needs the observation after the last step alone; dropping the others
            # nearly halves the memory of a batch.
            data = data._replace(
                next_observation=jax.tree.map(lambda x: x[None], env_state.obs),
                extras={**data.extras, "state_extras": kept},
            )
            return (env_state, next_key), (data, _sum_of_ended(extras))

        rounds = config.batch_size * config.num_minibatches // config.num_envs
        (env_state, _), (data, episodes) = jax.lax.scan(
            rollout, (state.env_state, key), None, length=rounds
        )
        data = jax.tree.map(lambda x: jnp.swapaxes(x, 1, 2), data)
        data = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data)
        # Every device gets all rollouts, because minibatches are drawn from all of them.
        return env_state, shared(data, None), jax.tree.map(lambda x: jnp.sum(x, axis=0), episodes)

    def rescale(
        state: TrainingState, data: types.Transition
    ) -> tuple[TrainingState, types.Transition, jax.Array]:
        """Brings rewards and value to the present scale; starts a value that has not learned.

        The scale of the rewards changes while it is measured. The value's output layer changes with
        it, so that the value stays what it was in rewards (van Hasselt et al. 2016,
        arXiv:1602.07714). A new value starts at the best constant. One that starts elsewhere moves
        there over many updates, and moves furthest in the observations furthest from the mean:
        where it falls, the policy learns to avoid what it has rarely seen.

        Returns:
          The state and the rollouts, both with the new value, and the factor on rewards, ().
        """
        factors = state.hyperparameters
        constant, measured = _fit_constant_value(data, factors.discounting)
        change = divisor = jnp.float32(1)
        if config.normalize_rewards:
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
        if config.init_value_from_rollouts:
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
        """
        extras = data.extras["state_extras"]
        # Values are of scaled rewards.
        bonus = discounting * extras["final_value"] * extras["truncation"] / scaling
        extras = {"truncation": jnp.zeros_like(extras["truncation"])}
        return data._replace(
            reward=data.reward + bonus, extras={**data.extras, "state_extras": extras}
        )

    def learn(
        state: TrainingState,
        statistics: Any,
        data: types.Transition,
        reward_scaling: jax.Array,
        key: jax.Array,
    ) -> tuple[TrainingState, Metrics]:
        """Several passes over the rollouts, each in a new order; a gradient step per minibatch."""
        factors = {
            field.name: getattr(state.hyperparameters, field.name)
            for field in fields(HyperParameters)
            if field.name != "learning_rate"
        } | {"reward_scaling": reward_scaling}

        def minibatch_step(carry: Any, rollouts: jax.Array) -> Any:
            params, optimizer_state, learning_rate, key = carry
            key, key_loss = jax.random.split(key)
            minibatch = shared(jax.tree.map(lambda x: x[rollouts], data), AXIS)
            (_, metrics), grads = loss_and_grad(params, statistics, minibatch, key_loss, **factors)
            if config.learning_rate_schedule == "adaptive_kl":
                learning_rate = _follow_kl(learning_rate, metrics["kl_mean"], config.desired_kl)
            direction, optimizer_state = optimizer.update(grads, optimizer_state)
            change = jax.tree.map(lambda x: -learning_rate * x, direction)
            params = optax.apply_updates(params, change)
            metrics["learning_rate"] = learning_rate
            return (params, optimizer_state, learning_rate, key), metrics

        def one_pass(carry: Any, _: None) -> Any:
            *learner, key = carry
            key, key_order, key_grad = jax.random.split(key, 3)
            order = jax.random.permutation(key_order, config.batch_size * config.num_minibatches)
            (*learner, _), metrics = jax.lax.scan(
                minibatch_step,
                (*learner, key_grad),
                order.reshape(config.num_minibatches, config.batch_size),
            )
            return (*learner, key), metrics

        learner = (state.params, state.optimizer_state, state.learning_rate, key)
        (params, optimizer_state, learning_rate, _), metrics = jax.lax.scan(
            one_pass, learner, None, length=config.num_updates_per_batch
        )
        metrics = jax.tree.map(jnp.mean, metrics)
        state = state.replace(
            params=params,
            optimizer_state=optimizer_state,
            learning_rate=learning_rate,
        )
        return state, metrics

    def update(state: TrainingState) -> tuple[TrainingState, Totals]:
        key_sgd, key_unroll, new_key = jax.random.split(state.key, 3)
        env_state, data, (episodes, episode_metrics) = collect(state, key_unroll)
        measured = {
            "entropy": -jnp.mean(data.extras["policy_extras"]["log_prob"]),
            "reward_min": jnp.min(data.reward),
            "reward_max": jnp.max(data.reward),
        }
        state, data, scaling = rescale(state, data)
        if config.bootstrap_on_timeout:
            data = bootstrap(data, state.hyperparameters.discounting, scaling)
        acted_with = state.normalizer_params
        statistics = running_statistics.update(acted_with, without_images(data.observation))
        if config.learning_rate_schedule == "linear":
            rate = state.hyperparameters.learning_rate
            rate *= linear_schedule(state.updates, config.num_updates)
            state = state.replace(learning_rate=jnp.float32(rate))
        # As in Brax: the KL divergence should measure the policy's change, not that of statistics.
        follows_kl = config.learning_rate_schedule == "adaptive_kl"
        loss_uses = acted_with if follows_kl else statistics
        state, metrics = learn(state, loss_uses, data, scaling, key_sgd)
        state = state.replace(
            normalizer_params=statistics,
            env_state=env_state,
            key=new_key,
            updates=state.updates + 1,
        )
        not_finite = env_state.info.get("not_finite", jnp.zeros((), bool))
        totals = Totals(
            updates=jnp.int32(1),
            metrics={**metrics, **measured},
            episodes=episodes,
            episode_metrics=episode_metrics,
            not_finite=jnp.sum(not_finite, dtype=jnp.int32),
        )
        return state, totals

    def epoch(state: TrainingState, updates: ArrayLike) -> tuple[TrainingState, Totals]:
        def body(_: jax.Array, carry: tuple[TrainingState, Totals]) -> Any:
            state, total = carry
            state, new = update(state)
            return state, jax.tree.map(jnp.add, total, new)

        shapes = jax.eval_shape(update, state)[1]
        total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, updates, body, (state, total))

    def evaluate(state: TrainingState) -> Metrics:
        episodes = run_episodes(
            evaluation_env(state.seed),
            make_policy(policy_params(state), deterministic=config.deterministic_eval),
            # Training is the same however often it is evaluated.
            jax.random.fold_in(state.eval_key, state.updates),
            num_envs=config.num_eval_envs,
            num_steps=config.episode_length // config.action_repeat,
        )
        metrics = {
            "eval/episode_reward_std": jnp.std(episodes.metrics["reward"]),
            "eval/avg_episode_length": jnp.mean(episodes.steps),
            "eval/time_limit_reached": jnp.mean(episodes.cut_off),
        }
        for name, values in episodes.metrics.items():
            metrics[f"eval/episode_{name}"] = jnp.mean(values)
        return metrics

    def shared(tree: Any, axis: str | None) -> Any:
        """Splits the first axis of each array over the devices, or gives every device all of it."""
        if mesh is None:
            return tree
        sharding = NamedSharding(mesh, PartitionSpec(axis))
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, sharding), tree)

    env_specs = env.specs if isinstance(env, ShardedWrapper) else None
    return PPO(networks, init, update, epoch, evaluate, training_env, evaluation_env, env_specs)


def ppo_loss(
    params: losses.PPONetworkParams,
    normalizer_params: Any,
    data: types.Transition,
    key: jax.Array,
    *,
    ppo_network: PPONetworks,
    entropy_cost: ArrayLike,
    discounting: ArrayLike,
    reward_scaling: ArrayLike,
    gae_lambda: ArrayLike,
    clipping_epsilon: ArrayLike,
    clipping_epsilon_value: float | None = None,
    normalize_advantage: bool = True,
    vf_coefficient: float = 0.5,
) -> tuple[jax.Array, Metrics]:
    """The loss of a minibatch, as `brax.training.agents.ppo.losses.compute_ppo_loss` defines it.

    But steps that the time limit cut off are left out of the policy's loss and of the mean and the
    standard deviation of the advantages. What follows them is unknown. Brax sets their advantage to
    0 before it normalises: where most advantages are negative, being cut off is then encouraged.

    Args:
      data: rollouts, (batch_size, unroll_length, ...); next_observation has the last one alone.
      key: for the entropy, where it has no closed form.

    Returns:
      The loss, (), and its parts.
    """
    distribution = ppo_network.parametric_action_distribution
    data = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), data)  # time first
    logits = ppo_network.policy_network.apply(normalizer_params, params.policy, data.observation)
    baseline, last_value = (
        ppo_network.value_network.apply(normalizer_params, params.value, observation)
        for observation in (
            data.observation,
            jax.tree.map(lambda x: x[-1], data.next_observation),
        )
    )
    cut_off = data.extras["state_extras"]["truncation"]
    targets, advantages = losses.compute_gae(
        truncation=cut_off,
        termination=(1 - data.discount) * (1 - cut_off),
        rewards=data.reward * reward_scaling,
        values=baseline,
        bootstrap_value=last_value,
        lambda_=gae_lambda,
        discount=discounting,
    )

    def mean(x: jax.Array) -> jax.Array:
        """Over the steps that were not cut off."""
        return jnp.sum((1 - cut_off) * x) / jnp.maximum(jnp.sum(1 - cut_off), 1.0)

    if normalize_advantage:
        advantages -= mean(advantages)
        advantages /= jnp.sqrt(mean(advantages**2)) + 1e-8
    acted = data.extras["policy_extras"]
    ratio = jnp.exp(distribution.log_prob(logits, acted["raw_action"]) - acted["log_prob"])
    clipped = jnp.clip(ratio, 1 - clipping_epsilon, 1 + clipping_epsilon)
    policy_loss = -mean(jnp.minimum(ratio * advantages, clipped * advantages))

    squared_error = (targets - baseline) ** 2
    if clipping_epsilon_value is not None:
        change = baseline - acted["value"]
        near = acted["value"] + jnp.clip(change, -clipping_epsilon_value, clipping_epsilon_value)
        squared_error = jnp.maximum(squared_error, (targets - near) ** 2)
    v_loss = vf_coefficient * 0.5 * jnp.mean(squared_error)

    entropy_loss = -jnp.asarray(entropy_cost) * jnp.mean(distribution.entropy(logits, key))
    metrics = {"policy_loss": policy_loss, "v_loss": v_loss, "entropy_loss": entropy_loss}
    metrics["total_loss"] = policy_loss + v_loss + entropy_loss
    policy = distribution.create_dist(logits)
    metrics["policy_dist_mean_std"] = jnp.mean(policy.scale)
    if hasattr(policy, "kl_divergence"):
        before = distribution.create_dist(acted["distribution_params"])
        metrics["kl_mean"] = jnp.mean(policy.kl_divergence(before))
    return metrics["total_loss"], metrics


def _split(seed: ArrayLike) -> dict[str, jax.Array]:
    """The random keys of a run, split as in `ppo.train`."""
    global_key, local_key = jax.random.split(jax.random.PRNGKey(seed))
    local_key, env, evaluation = jax.random.split(jax.random.fold_in(local_key, 0), 3)
    policy, value = jax.random.split(global_key)
    training = jax.random.split(jax.random.split(local_key)[0], 1)[0]
    return {"env": env, "eval": evaluation, "policy": policy, "value": value, "training": training}


def _refuse_what_does_not_fit(env: Env, obs: Any, networks: PPONetworks, statistics: Any) -> None:
    """Traces the policy once. Raises UsageError where PPO would fail or learn something else."""
    entries = obs if isinstance(obs, dict) else {"obs": obs}
    for key, entry in entries.items():
        if not key.startswith(PIXELS) and not jnp.issubdtype(entry.dtype, jnp.floating):
            raise UsageError(
                f"The observation{'' if key == 'obs' else f' {key!r}'} is {entry.dtype}, which "
                "has to be float32: use .astype(jnp.float32)."
            )

    def act(key: jax.Array, obs: Any, statistics: Any) -> jax.Array:
        params = (statistics, networks.policy_network.init(key), None)
        return make_inference_fn(networks)(params)(obs, key)[0]

    space = action_space_of(env)
    action = jax.eval_shape(act, jax.ShapeDtypeStruct((2,), jnp.uint32), obs, statistics)
    # With JAX_ENABLE_X64 a float is float64.
    if action.shape[1:] != space.shape or action.dtype.kind != space.dtype.kind:
        raise UsageError(
            f"The networks give actions of shape {action.shape[1:]} and dtype {action.dtype}, but "
            f"the environment takes {space}: build them for the environment's own action space."
        )


def _fit_constant_value(
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


def _sum_of_ended(extras: Any) -> tuple[jax.Array, Metrics]:
    """How many episodes have ended in a rollout, and the sums of their metrics."""
    if "episode_done" not in extras:
        return jnp.zeros(()), {}
    ended = extras["episode_done"]  # (unroll_length, num_envs)
    sums = {
        name.removeprefix("sum_"): jnp.sum(jnp.where(ended > 0, x, jnp.zeros_like(x)))
        for name, x in extras["episode_metrics"].items()
    }
    return jnp.sum(ended), sums


def _follow_kl(learning_rate: jax.Array, kl: jax.Array, desired: float) -> jax.Array:
    """Brax's adaptive learning rate: between 1e-5 and 1e-2, by a factor of 1.5 at a time."""
    slower = jnp.maximum(learning_rate / 1.5, 1e-5)
    faster = jnp.minimum(learning_rate * 1.5, 1e-2)
    learning_rate = jnp.where(kl > 2 * desired, slower, learning_rate)
    return jnp.where((kl < desired / 2) & (kl > 0), faster, learning_rate)
