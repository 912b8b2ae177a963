"""Proximal policy optimisation, in the order of the data: collect, rescale, learn, evaluate.

The acting, the running statistics and the advantages are Brax's (`brax.training.agents.ppo`), whose
`ppo.train` is one long function that can't be resumed. Here are pure functions, to be jitted, or
vmapped over seeds and over `HyperParameters`. Keys are split as in `ppo.train`: both give the same
parameters from the same seed where the time limit cuts off no episode, with
`normalize_rewards=False`, `init_value_from_rollouts=False`, and the learning rate `adaptive_kl`, or
`constant` without `normalize_observations`.

PPO: Schulman et al. 2017, arXiv:1707.06347. Advantages: Schulman et al. 2016, arXiv:1506.02438.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from brax.envs.base import Env, State
from brax.training import acting, types
from brax.training.acme import running_statistics, specs
from brax.training.agents.ppo.losses import PPONetworkParams
from brax.training.agents.ppo.networks import PPONetworks, make_inference_fn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from ..env.curriculum import at_progress
from ..env.episodes import run_episodes, strip_weak_types
from ..errors import UsageError
from .loss import ppo_loss
from .networks import observation_shapes, refuse_what_does_not_fit, without_images
from .rewards import RewardScale, bootstrap, rescale
from .schedule import follow_kl, linear_schedule
from .sharding import AXIS, ShardedWrapper, divide
from .state import HyperParameters, Metrics, Totals, TrainingState, policy_params

if TYPE_CHECKING:
    from .task import Task


@dataclasses.dataclass(frozen=True, eq=False)
class PPO:
    """The pure functions that train one task; `make_ppo` builds it.

    Attributes:
      task: what is trained.
      environment: one environment, not batched.
      networks: those of the task's `network_factory`.
      optimizer: clips gradients and follows Adam; the learning rate is applied by `learn`.
      statistics: () -> running statistics of no observation.
      counts_episodes: whether the wrappers sum up training episodes; a user's may not.
      mesh: devices that share the environments and the minibatches; None for one device. The result
        is the same but for rounding.
      divisions: how the devices divide the state of the batches "env" and "eval"; empty if they
        don't.
    """

    task: "Task"
    environment: Env
    networks: PPONetworks
    optimizer: optax.GradientTransformation
    statistics: Callable[[], running_statistics.RunningStatisticsState]
    counts_episodes: bool
    mesh: Mesh | None
    divisions: dict[str, State]

    def training_env(self, seed: ArrayLike) -> Env:
        """The batch that `update` steps, with the randomised systems of `seed`, () uint32."""
        return self._divided("env", _batch(self.task, self.environment, "env", seed))

    def evaluation_env(self, seed: ArrayLike) -> Env:
        """The batch that `evaluate` steps: of its own, and without auto-reset."""
        return self._divided("eval", _batch(self.task, self.environment, "eval", seed))

    def _divided(self, which: str, env: Env) -> Env:
        if self.mesh is None or which not in self.divisions:
            return env
        return ShardedWrapper(env, self.mesh, self.divisions[which])

    def init(
        self, seed: ArrayLike, hyperparameters: HyperParameters | None = None
    ) -> TrainingState:
        """The state before training.

        Args:
          seed: () uint32.
          hyperparameters: those of the settings if None.
        """
        factors = hyperparameters or HyperParameters.of(self.task.settings)
        factors = jax.tree.map(jnp.float32, factors)
        keys = random_keys(seed)
        params = PPONetworkParams(
            policy=self.networks.policy_network.init(keys["policy"]),
            value=self.networks.value_network.init(keys["value"]),
        )
        reset_keys = jax.random.split(keys["env"], self.task.settings.num_envs)
        with at_progress(self.environment, jnp.float32(0)):
            env_state = self.training_env(seed).reset(reset_keys)
        state = TrainingState(
            params=params,
            optimizer_state=self.optimizer.init(params),
            learning_rate=factors.learning_rate,
            hyperparameters=factors,
            normalizer_params=self.statistics(),
            reward_scale=RewardScale(jnp.float32(0), jnp.float32(0)),
            env_state=env_state,
            key=keys["training"],
            eval_key=keys["eval"],
            seed=jnp.uint32(seed),
            updates=jnp.zeros((), jnp.int32),
        )
        return strip_weak_types(state)

    def collect(self, state: TrainingState, key: jax.Array) -> tuple[State, types.Transition, Any]:
        """Acts in the environments.

        Returns:
          The environments' state; rollouts, (batch_size x num_minibatches, unroll_length, ...), of
          which only the last `next_observation` is kept; how many episodes ended, and the sums of
          their metrics.
        """
        settings, networks = self.task.settings, self.networks
        env = self.training_env(state.seed)
        policy = make_inference_fn(
            networks, compute_value=settings.clipping_epsilon_value is not None
        )(policy_params(state))
        extra_fields = ["truncation"]
        if settings.bootstrap_on_timeout:
            extra_fields.append("final_obs")
        if self.counts_episodes:
            extra_fields += ["episode_done", "episode_metrics"]

        def rollout(carry: tuple[State, jax.Array], _: None) -> tuple[tuple[State, jax.Array], Any]:
            env_state, key = carry
            key, next_key = jax.random.split(key)
            env_state, data = acting.generate_unroll(
                env, env_state, policy, key, settings.unroll_length, extra_fields
            )
            extras = data.extras["state_extras"]
            kept = {"truncation": extras["truncation"]}
            if settings.bootstrap_on_timeout:
                kept["final_value"] = networks.value_network.apply(
                    state.normalizer_params, state.params.value, extras["final_obs"]
                )
            # Dropping the other next observations nearly halves the memory of a batch.
            data = data._replace(
                next_observation=jax.tree.map(lambda x: x[None], env_state.obs),
                extras={**data.extras, "state_extras": kept},
            )
            return (env_state, next_key), (data, _sum_of_ended(extras))

        rounds = settings.batch_size * settings.num_minibatches // settings.num_envs
        progress = jnp.float32(state.updates / max(settings.num_updates - 1, 1))
        with at_progress(self.environment, progress):
            (env_state, _), (data, episodes) = jax.lax.scan(
                rollout, (state.env_state, key), None, length=rounds
            )
        data = jax.tree.map(lambda x: jnp.swapaxes(x, 1, 2), data)
        data = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data)
        # Every device gets all rollouts, because minibatches are drawn from all of them.
        data = self._shared(data, None)
        return env_state, data, jax.tree.map(lambda x: jnp.sum(x, axis=0), episodes)

    def learn(
        self,
        state: TrainingState,
        statistics: Any,
        data: types.Transition,
        reward_scaling: jax.Array,
        key: jax.Array,
    ) -> tuple[TrainingState, Metrics]:
        """Several passes over the rollouts, each in a new order; a gradient step per minibatch.

        Args:
          state: its parameters, optimizer state and learning rate are changed.
          statistics: running statistics that normalise the observations.
          data: what `collect` returned.
          reward_scaling: factor on rewards, () float32.
          key: (2,) uint32, consumed.
        """
        settings = self.task.settings

        def loss(params: PPONetworkParams, minibatch: types.Transition, key: jax.Array) -> Any:
            return ppo_loss(
                params,
                statistics,
                minibatch,
                key,
                networks=self.networks,
                settings=settings,
                factors=state.hyperparameters.replace(reward_scaling=reward_scaling),
            )

        def minibatch_step(carry: Any, rollouts: jax.Array) -> Any:
            params, optimizer_state, learning_rate, key = carry
            key, key_loss = jax.random.split(key)
            minibatch = self._shared(jax.tree.map(lambda x: x[rollouts], data), AXIS)
            grads, metrics = jax.grad(loss, has_aux=True)(params, minibatch, key_loss)
            if settings.learning_rate_schedule == "adaptive_kl":
                learning_rate = follow_kl(learning_rate, metrics["kl_mean"], settings.desired_kl)
            direction, optimizer_state = self.optimizer.update(grads, optimizer_state)
            change = jax.tree.map(lambda x: -learning_rate * x, direction)
            params = optax.apply_updates(params, change)
            metrics["learning_rate"] = learning_rate
            return (params, optimizer_state, learning_rate, key), metrics

        def one_pass(carry: Any, _: None) -> Any:
            *learner, key = carry
            key, key_order, key_grad = jax.random.split(key, 3)
            rollouts = settings.batch_size * settings.num_minibatches
            order = jax.random.permutation(key_order, rollouts)
            (*learner, _), metrics = jax.lax.scan(
                minibatch_step,
                (*learner, key_grad),
                order.reshape(settings.num_minibatches, settings.batch_size),
            )
            return (*learner, key), metrics

        learner = (state.params, state.optimizer_state, state.learning_rate, key)
        (params, optimizer_state, learning_rate, _), metrics = jax.lax.scan(
            one_pass, learner, None, length=settings.num_updates_per_batch
        )
        state = state.replace(
            params=params, optimizer_state=optimizer_state, learning_rate=learning_rate
        )
        return state, jax.tree.map(jnp.mean, metrics)

    def update(self, state: TrainingState) -> tuple[TrainingState, Totals]:
        """One update: rollouts, and what is learned from them."""
        settings = self.task.settings
        key_sgd, key_unroll, new_key = jax.random.split(state.key, 3)
        env_state, data, (episodes, episode_metrics) = self.collect(state, key_unroll)
        measured = {
            "entropy": -jnp.mean(data.extras["policy_extras"]["log_prob"]),
            "reward_min": jnp.min(data.reward),
            "reward_max": jnp.max(data.reward),
        }
        state, data, scaling = rescale(state, data, self.networks, settings)
        if settings.bootstrap_on_timeout:
            data = bootstrap(data, state.hyperparameters.discounting, scaling)
        acted_with = state.normalizer_params
        statistics = running_statistics.update(acted_with, without_images(data.observation))
        if settings.learning_rate_schedule == "linear":
            rate = state.hyperparameters.learning_rate
            rate *= linear_schedule(state.updates, settings.num_updates)
            state = state.replace(learning_rate=jnp.float32(rate))
        # The loss normalises as acting did: probability ratios and the KL divergence then measure
        # the policy's change alone. Brax does so with `adaptive_kl` only.
        state, metrics = self.learn(state, acted_with, data, scaling, key_sgd)
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

    def epoch(self, state: TrainingState, updates: ArrayLike) -> tuple[TrainingState, Totals]:
        """The state after so many updates, () int32, 1 or more, and their `Totals`."""

        def body(_: jax.Array, carry: tuple[TrainingState, Totals]) -> Any:
            state, total = carry
            state, new = self.update(state)
            return state, jax.tree.map(jnp.add, total, new)

        shapes = jax.eval_shape(self.update, state)[1]
        total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, updates, body, (state, total))

    def evaluate(self, state: TrainingState) -> Metrics:
        """`eval/...` metrics of num_eval_envs whole episodes, () float32 each."""
        settings = self.task.settings
        policy = make_inference_fn(self.networks)(
            policy_params(state), deterministic=settings.deterministic_eval
        )
        episodes = run_episodes(
            self.evaluation_env(state.seed),
            policy,
            # Training is the same however often it is evaluated.
            jax.random.fold_in(state.eval_key, state.updates),
            num_envs=settings.num_eval_envs,
            num_steps=settings.episode_length // settings.action_repeat,
        )
        means = {f"eval/episode_{name}": jnp.mean(x) for name, x in episodes.metrics.items()}
        return means | {
            "eval/episode_reward_std": jnp.std(episodes.metrics["reward"]),
            "eval/avg_episode_length": jnp.mean(episodes.steps),
            "eval/time_limit_reached": jnp.mean(episodes.cut_off),
        }

    def _shared(self, tree: Any, axis: str | None) -> Any:
        """Splits the first axis of each array over the devices, or gives every device all of it."""
        if self.mesh is None:
            return tree
        sharding = NamedSharding(self.mesh, PartitionSpec(axis))
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, sharding), tree)


def make_ppo(task: "Task", mesh: Mesh | None = None) -> PPO:
    """Builds the functions that train `task`; compiles nothing.

    Raises:
      UsageError: PPO can't train this environment or these networks.
    """
    settings, environment = task.settings, task.environment()
    env = _batch(task, environment, "env")
    reset = jax.eval_shape(env.reset, jax.ShapeDtypeStruct((settings.num_envs, 2), jnp.uint32))
    if settings.bootstrap_on_timeout and reset.info.get("final_obs") != reset.obs:
        raise UsageError(
            "bootstrap_on_timeout needs info['final_obs'], the observation that a step ended in, "
            "from wrap_env_fn, of the same shape as obs: let it change observations before it "
            "calls wrap_for_training, or set bootstrap_on_timeout=False."
        )
    shapes = observation_shapes(jax.tree.map(lambda x: x.shape[1:], reset.obs))
    normalize: Any = types.identity_observation_preprocessor
    if settings.normalize_observations:
        normalize = running_statistics.normalize
    networks = task.network_factory(shapes, env.action_size, preprocess_observations_fn=normalize)

    def statistics() -> running_statistics.RunningStatisticsState:
        vectors = jax.tree.map(
            lambda shape: specs.Array(shape, jnp.dtype("float32")),
            without_images(shapes),
            is_leaf=lambda x: isinstance(x, tuple),
        )
        return running_statistics.init_state(vectors, settings.normalize_observations_std_eps)

    refuse_what_does_not_fit(env, reset.obs, networks, jax.eval_shape(statistics))
    divisions = {}
    # Randomised systems are as many as environments, and would have to be shared out too.
    if mesh is not None and task.randomization_fn is None:
        evaluation = _batch(task, environment, "eval")
        for which, batch, size in (
            ("env", env, settings.num_envs),
            ("eval", evaluation, settings.num_eval_envs),
        ):
            if size % mesh.size == 0:
                divisions[which] = divide(batch, size)
    optimizer = optax.scale_by_adam()
    if settings.max_grad_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(settings.max_grad_norm), optimizer)
    return PPO(
        task=task,
        environment=environment,
        networks=networks,
        optimizer=optimizer,
        statistics=statistics,
        # A wrapper of the user's may not count episodes as Brax's does.
        counts_episodes={"episode_done", "episode_metrics"} <= reset.info.keys(),
        mesh=mesh,
        divisions=divisions,
    )


def _batch(task: "Task", environment: Env, which: str, seed: ArrayLike | None = None) -> Env:
    """The batch "env", for training, or "eval", for evaluation; not randomised without a seed."""
    randomize = None
    if task.randomization_fn is not None and seed is not None:
        size = task.settings.num_envs if which == "env" else task.settings.num_eval_envs
        # Not the keys of the first reset: a system must not follow from its start. (`split` gives
        # what `fold_in` gives for 0, 1, 2 and so on.)
        rng = jax.random.split(jax.random.fold_in(random_keys(seed)[which], 2**32 - 1), size)
        randomize = functools.partial(task.randomization_fn, rng=rng)
    return task.batched(environment, training=which == "env", randomization_fn=randomize)


def random_keys(seed: ArrayLike) -> dict[str, jax.Array]:
    """The random keys of a run, split as in `ppo.train`."""
    global_key, local_key = jax.random.split(jax.random.PRNGKey(seed))
    local_key, env, evaluation = jax.random.split(jax.random.fold_in(local_key, 0), 3)
    policy, value = jax.random.split(global_key)
    training = jax.random.split(jax.random.split(local_key)[0], 1)[0]
    return {"env": env, "eval": evaluation, "policy": policy, "value": value, "training": training}


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
