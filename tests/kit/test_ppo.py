"""The algorithm: equal to Brax's, seeds apart, and what can't be trained is refused."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import State
from brax.envs.wrappers.training import EpisodeWrapper, VmapWrapper
from brax.training.acme import specs
from brax.training.acme.running_statistics import init_state
from brax.training.agents.ppo import networks as brax_networks
from brax.training.agents.ppo import train as brax_ppo
from brax.training.agents.ppo.losses import PPONetworkParams
from brax.training.types import Transition
from flax import linen as nn
from kit.env.actions import Continuous
from kit.env.wrappers import wrap_for_training
from kit.errors import UsageError
from kit.ppo.brax_trainers import enable_brax_trainers
from kit.ppo.loss import ppo_loss
from kit.ppo.networks import make_network_factory
from kit.ppo.state import HyperParameters
from kit.ppo.task import Task
from toys import OBSERVATIONS, SPACES, TINY, Encoder, Toy, toy_task

OURS_ALONE = {
    "init_value_from_rollouts",
    "learning_rate_schedule",
    "normalize_rewards",
    "num_seeds",
}


ONE_STEP: dict[str, Any] = {
    "num_updates_per_batch": 1,
    "num_minibatches": 1,
}  # of gradient descent in an update


@pytest.mark.parametrize(
    ("space", "settings"),
    [
        ("discrete", {"normalize_observations": False, "clipping_epsilon_value": 0.2}),
        pytest.param("continuous", {"normalize_observations": False}, marks=pytest.mark.slow),
        pytest.param(
            "multi_discrete",
            {"normalize_observations": False, "normalize_advantage": False},
            marks=pytest.mark.slow,
        ),
        # Brax updates the statistics after the loss with this schedule alone.
        pytest.param(
            "continuous",
            {"learning_rate_schedule": "adaptive_kl", "max_grad_norm": None},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_parameters_are_those_of_brax(space: str, settings: dict[str, Any]) -> None:
    enable_brax_trainers()
    brax: dict[str, Any] = {
        "learning_rate_schedule": "constant",
        "init_value_from_rollouts": False,
        "normalize_rewards": False,
        "episode_length": 1000,  # Brax learns from steps that were cut off
    }
    task = toy_task(SPACES[space], num_timesteps=64, num_evals=2, **(brax | settings))
    given = dataclasses.asdict(task.settings)
    schedule = given["learning_rate_schedule"]
    _, params, _ = brax_ppo.train(
        environment=task.environment(),
        wrap_env_fn=wrap_for_training,
        network_factory=task.network_factory,
        learning_rate_schedule="ADAPTIVE_KL" if schedule == "adaptive_kl" else None,
        **{k: v for k, v in given.items() if k not in OURS_ALONE},
    )
    ppo = task.make_ppo()
    state = jax.jit(ppo.init)(np.uint32(task.settings.seed))
    state, _ = jax.jit(ppo.epoch)(state, np.int32(2))
    # The same keys, batches and steps: the same parameters but for rounding.
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4),
        (state.params.policy, state.params.value),
        tuple(params[1:]),
    )


def test_the_policy_learns_nothing_from_a_step_that_was_cut_off() -> None:
    """Each step costs 1, so that an advantage of 0, as Brax gives such a step, is a large one."""
    task = costly_task()
    networks = task.make_ppo().networks
    cut_off = jnp.array([[0.0, 0, 0, 1], [0, 1, 0, 0]])
    size = cut_off.shape

    def policy_loss(log_prob: jax.Array) -> jax.Array:
        acted = {"raw_action": jnp.ones((*size, 2)), "log_prob": log_prob}
        acted["distribution_params"] = jnp.zeros((*size, 4))
        data = Transition(
            observation=jnp.ones((*size, 2)),
            action=acted["raw_action"],
            reward=-jnp.arange(1.0, 9).reshape(size),
            discount=jnp.ones(size),
            next_observation=jnp.ones((size[0], 1, 2)),
            extras={"policy_extras": acted, "state_extras": {"truncation": cut_off}},
        )
        statistics = init_state(specs.Array((2,), jnp.dtype("float32")))
        keys = jax.random.split(jax.random.PRNGKey(0))
        params = PPONetworkParams(
            networks.policy_network.init(keys[0]), networks.value_network.init(keys[1])
        )
        logits = networks.policy_network.apply(statistics, params.policy, data.observation)
        acted["log_prob"] += networks.parametric_action_distribution.log_prob(
            logits, acted["raw_action"]
        )
        _, metrics = ppo_loss(
            params,
            statistics,
            data,
            keys[0],
            networks=networks,
            settings=task.settings,
            factors=HyperParameters.of(task.settings),
        )
        return metrics["policy_loss"]

    slope = jax.grad(policy_loss)(jnp.zeros(size))
    np.testing.assert_array_equal(slope == 0, cut_off == 1)
    # Normalised over the others, whose advantages are then 0 on average.
    np.testing.assert_allclose(jnp.sum(slope), 0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["adaptive_kl", "constant"])
def test_the_kl_divergence_measures_the_change_of_the_policy_alone(schedule: str) -> None:
    """Not that of the running statistics, which is large in the first updates."""
    task = toy_task(
        observe=lambda x: 30 + 10 * jnp.stack([x, x**2]),
        learning_rate_schedule=schedule,
        **ONE_STEP,
    )
    ppo = task.make_ppo()
    with jax.default_matmul_precision("highest"):  # a GPU's default has three digits
        _, totals = jax.jit(ppo.update)(jax.jit(ppo.init)(np.uint32(0)))
    assert abs(totals.metrics["kl_mean"]) < 1e-3


class Costly(Toy):
    """Each step costs the same, so that its value is -cost / (1 - discount factor) everywhere."""

    cost = 1.0

    def step(self, state: State, action: jax.Array) -> State:
        return super().step(state, action).replace(reward=jnp.float32(-self.cost))


def costly_task(**settings: Any) -> Task:
    return dataclasses.replace(toy_task(**ONE_STEP | settings), environment=Costly)


def values(ppo: Any, state: Any) -> jax.Array:
    return ppo.networks.value_network.apply(
        state.normalizer_params, state.params.value, state.env_state.obs
    )


@pytest.mark.parametrize("bootstrap", [False, True])
def test_the_value_starts_at_the_best_constant(bootstrap: bool) -> None:
    task = costly_task(bootstrap_on_timeout=bootstrap)
    ppo = task.make_ppo()
    update = jax.jit(ppo.update)
    state, _ = update(jax.jit(ppo.init)(np.uint32(0)))
    later, _ = update(state)  # where it is learned like everything else
    expected = -task.settings.reward_scaling / (1 - task.settings.discounting)
    for now in (state, later):
        np.testing.assert_allclose(values(ppo, now), expected, atol=0.05)


def test_a_value_that_has_learned_does_not_start_again() -> None:
    """As that of another run does, from which `--init-from` starts."""
    ppo = costly_task().make_ppo()
    update = jax.jit(ppo.update)
    trained, _ = update(jax.jit(ppo.init)(np.uint32(0)))
    new = jax.jit(ppo.init)(np.uint32(1)).replace(
        params=trained.params,
        normalizer_params=trained.normalizer_params,
        reward_scale=trained.reward_scale,
    )
    after, totals = update(new)
    np.testing.assert_allclose(values(ppo, after), values(ppo, new), atol=0.05)
    assert totals.metrics["v_loss"] < 1e-3


class Gated(nn.Module):
    """An encoder with a bias of its own of shape (1,), which no start of the value may change."""

    @nn.compact
    def __call__(self, observation: Any, normalized: Any) -> jax.Array:
        return normalized * nn.sigmoid(nn.Dense(1, name="gate")(normalized))


def test_only_the_output_of_the_value_starts_elsewhere() -> None:
    task = toy_task(encoder=Gated(), **ONE_STEP, learning_rate=1e-9)
    ppo = dataclasses.replace(task, environment=Costly).make_ppo()
    state, _ = jax.jit(ppo.update)(jax.jit(ppo.init)(np.uint32(0)))
    gate = state.params.value["params"]["encoder"]["gate"]["bias"]
    np.testing.assert_allclose(gate, 0.0, atol=1e-6)
    np.testing.assert_allclose(values(ppo, state), -5.0, atol=0.01)


@pytest.mark.slow
def test_a_clipped_value_loss_is_about_the_value_that_started() -> None:
    """The estimates that were made while acting start elsewhere too; else nothing is learned."""
    losses = {}
    for clip in (None, 0.2):
        ppo = toy_task(**ONE_STEP, clipping_epsilon_value=clip).make_ppo()
        _, totals = jax.jit(ppo.update)(jax.jit(ppo.init)(np.uint32(0)))
        losses[clip] = totals.metrics["v_loss"]
    np.testing.assert_allclose(losses[0.2], losses[None], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-5, 1e5])
@pytest.mark.parametrize("space", ["continuous", "discrete"])
def test_training_does_not_depend_on_the_scale_of_rewards(scale: float, space: str) -> None:
    """SB3#2240, SB3#737: with rewards around -1e4 training ended far below a random policy."""

    class Scaled(Toy):
        def step(self, state: State, action: jax.Array) -> State:
            state = super().step(state, action)
            return state.replace(reward=scale * state.reward)

    def trained(environment: type[Toy]) -> Any:
        task = toy_task(SPACES[space])
        task = dataclasses.replace(task, environment=lambda: environment(SPACES[space]))
        ppo = task.make_ppo()
        return jax.jit(ppo.epoch)(jax.jit(ppo.init)(np.uint32(0)), np.int32(3))[0].params

    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=2e-3), trained(Toy), trained(Scaled)
    )


def test_the_value_keeps_its_meaning_while_the_scale_of_rewards_changes() -> None:
    """Rewards grow tenfold: what the value says of the observations so far stays the same."""
    ppo = toy_task(learning_rate=1e-9).make_ppo()
    before = jax.jit(ppo.init)(np.uint32(0))
    layer = {"kernel": jnp.ones((8, 1)), "bias": jnp.ones(1)}
    value = before.params.value["params"]
    value = {"params": {**value, "MLP_0": {**value["MLP_0"], "hidden_1": layer}}}
    before = before.replace(
        params=before.params.replace(value=value),
        reward_scale=jax.tree.map(lambda x: jnp.float32(1e-4), before.reward_scale),
    )
    after, _ = jax.jit(ppo.update)(before)
    after = after.replace(env_state=before.env_state, normalizer_params=before.normalizer_params)

    def in_rewards(state: Any) -> jax.Array:
        return values(ppo, state) * state.reward_scale.divisor()

    assert after.reward_scale.divisor() > 10 * before.reward_scale.divisor()
    np.testing.assert_allclose(in_rewards(after), in_rewards(before), rtol=1e-3)


def test_the_scale_of_rewards_does_not_depend_on_a_constant_that_is_added() -> None:
    """Where episodes do not end, an offset changes the value and nothing that actions change."""

    class Offset(Toy):
        def step(self, state: State, action: jax.Array) -> State:
            state = super().step(state, action)
            return state.replace(reward=state.reward + 20.0)

    def divisor(environment: type[Toy]) -> Any:
        ppo = dataclasses.replace(toy_task(), environment=environment).make_ppo()
        state, _ = jax.jit(ppo.update)(jax.jit(ppo.init)(np.uint32(0)))
        return state.reward_scale.divisor()

    np.testing.assert_allclose(divisor(Offset), divisor(Toy), rtol=0.01)


def test_a_reward_that_is_always_0_is_not_scaled() -> None:
    class Unpaid(Toy):
        def step(self, state: State, action: jax.Array) -> State:
            return super().step(state, action).replace(reward=jnp.zeros(()))

    ppo = dataclasses.replace(toy_task(), environment=Unpaid).make_ppo()
    state, totals = jax.jit(ppo.epoch)(jax.jit(ppo.init)(np.uint32(0)), np.int32(3))
    assert state.reward_scale.divisor() == 1
    assert np.isfinite(totals.metrics["total_loss"])


def test_randomised_systems_do_not_follow_from_the_start_of_an_episode() -> None:
    def randomize(sys: Any, rng: jax.Array) -> Any:
        def draw(key: jax.Array) -> jax.Array:
            direct = jax.random.uniform(key, (), jnp.float32, -1, 1)
            split = jax.random.uniform(jax.random.split(key)[0], (), jnp.float32, -1, 1)
            return jnp.stack([direct, split])

        return {"wind": jax.vmap(draw)(rng)}, {"wind": 0}

    ppo = dataclasses.replace(toy_task(), randomization_fn=randomize).make_ppo()
    drawn = jax.jit(ppo.init)(np.uint32(0)).env_state.pipeline_state
    assert not np.isin(drawn["x"], drawn["wind"]).any()


@pytest.mark.parametrize(("kind", "encoder"), [("flat", None), ("vector and image", Encoder())])
def test_the_value_starts_the_same_for_all_observations(kind: str, encoder: Any) -> None:
    ppo = toy_task(observe=OBSERVATIONS[kind], encoder=encoder).make_ppo()
    state = jax.jit(ppo.init)(np.uint32(0))
    value = ppo.networks.value_network.apply(
        state.normalizer_params, state.params.value, state.env_state.obs
    )
    np.testing.assert_array_equal(value, 0.0)


def test_seeds_are_evaluated_on_episodes_of_their_own() -> None:
    ppo = toy_task().make_ppo()
    states = jax.jit(jax.vmap(ppo.init))(np.arange(3, dtype=np.uint32))
    same_policy = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), states.params)
    states = states.replace(params=same_policy)
    returns = jax.jit(jax.vmap(ppo.evaluate))(states)["eval/episode_reward"]
    assert len(np.unique(returns)) == 3


def test_no_key_of_an_evaluation_is_one_of_training() -> None:
    ppo = toy_task().make_ppo()
    state = jax.jit(ppo.init)(np.uint32(0))
    training, evaluation = set(), set()
    for updates in range(20):
        training |= {tuple(map(int, key)) for key in jax.random.split(state.key, 3)}
        evaluation.add(tuple(map(int, jax.random.fold_in(state.eval_key, updates))))
        state = state.replace(key=jax.random.split(state.key, 3)[2])
    assert not training & evaluation


def test_a_vmapped_seed_equals_a_run_of_its_own() -> None:
    ppo = toy_task().make_ppo()
    step = jax.jit(lambda seed: ppo.epoch(ppo.init(seed), np.int32(2))[0].params)
    many = jax.jit(jax.vmap(lambda seed: ppo.epoch(ppo.init(seed), np.int32(2))[0].params))(
        np.arange(2, dtype=np.uint32)
    )
    alone = step(np.uint32(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-5), many, alone)


class LastStepPays(Toy):
    """The action at the last step before the time limit brings the only reward."""

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        zero = jnp.zeros((), jnp.float32)
        return state.replace(pipeline_state={"t": zero}, obs=jnp.stack([zero, zero]))

    def step(self, state: State, action: jax.Array) -> State:
        t = state.pipeline_state["t"]
        return state.replace(
            pipeline_state={"t": t + 1},
            obs=jnp.stack([jnp.float32(t == 0), jnp.ones(())]),  # whether this was the first step
            reward=jnp.where(t == 1, action[0], 0.0),
        )


@pytest.mark.slow
@pytest.mark.parametrize("bootstrap", [False, True])
def test_bootstrapping_learns_from_the_step_that_is_cut_off(bootstrap: bool) -> None:
    task = toy_task(
        episode_length=2,
        bootstrap_on_timeout=bootstrap,
        num_envs=16,
        unroll_length=4,
        batch_size=8,
        num_minibatches=4,
        num_updates_per_batch=8,
        num_timesteps=1_000_000,
        reward_scaling=1.0,
    )
    ppo = dataclasses.replace(task, environment=LastStepPays).make_ppo()
    state, _ = jax.jit(ppo.epoch)(jax.jit(ppo.init)(np.uint32(0)), np.int32(30))
    reward = jax.jit(ppo.evaluate)(state)["eval/episode_reward"]
    assert (reward > 0.9) == bootstrap


def test_the_linear_schedule_falls_to_zero_in_the_second_half() -> None:
    ppo = toy_task(learning_rate_schedule="linear").make_ppo()  # 3 updates, and one after the end
    state, rates = jax.jit(ppo.init)(np.uint32(0)), []
    for _ in range(4):
        state, totals = jax.jit(ppo.update)(state)
        rates.append(float(totals.metrics["learning_rate"]))
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 2e-3 / 3, 0], atol=1e-9)


def test_evaluation_counts_the_episodes_that_reach_the_time_limit() -> None:
    ppo = toy_task().make_ppo()
    state = jax.jit(ppo.init)(np.uint32(0))
    assert jax.jit(ppo.evaluate)(state)["eval/time_limit_reached"] == 1


@pytest.mark.parametrize(
    ("brax_wrapper", "limit", "reached"), [(False, 8, 0), (True, 8, 0), (False, 7, 1)]
)
def test_an_end_of_its_own_in_the_last_step_is_not_the_time_limits(
    brax_wrapper: bool, limit: int, reached: int
) -> None:
    """As Gymnasium#907 reports it of a TimeLimit that says `truncated` for both."""

    class EndsAt8(Toy):
        def reset(self, rng: jax.Array) -> State:
            state = super().reset(rng)
            return state.replace(info={"t": jnp.zeros(())})

        def step(self, state: State, action: jax.Array) -> State:
            t = state.info["t"] + 1
            done = jnp.float32(t == 8)  # but not afterwards
            return super().step(state, action).replace(done=done, info={**state.info, "t": t})

    def braxes(env: Any, episode_length: int, action_repeat: int, **_: Any) -> Any:
        return EpisodeWrapper(VmapWrapper(env), episode_length, action_repeat)

    task = dataclasses.replace(
        toy_task(episode_length=limit),
        environment=EndsAt8,
        wrap_env_fn=braxes if brax_wrapper else None,
    )
    ppo = task.make_ppo()
    metrics = jax.jit(ppo.evaluate)(jax.jit(ppo.init)(np.uint32(0)))
    assert metrics["eval/time_limit_reached"] == reached
    assert metrics["eval/avg_episode_length"] == limit


@pytest.mark.slow
def test_randomised_domains_are_evaluated_in_a_batch_of_another_size() -> None:
    def randomize(sys: Any, rng: jax.Array) -> Any:
        return {"wind": jax.random.uniform(rng[0], (len(rng),))}, {"wind": 0}

    task = dataclasses.replace(toy_task(num_eval_envs=7), randomization_fn=randomize)
    ppo = task.make_ppo()
    state = jax.jit(ppo.init)(np.uint32(0))
    assert len(np.unique(state.env_state.pipeline_state["wind"])) == TINY.num_envs
    state, _ = jax.jit(ppo.epoch)(state, np.int32(2))
    assert np.isfinite(jax.jit(ppo.evaluate)(state)["eval/episode_reward"])


@pytest.mark.slow
def test_each_seed_randomises_its_own_systems_as_it_would_alone() -> None:
    def randomize(sys: Any, rng: jax.Array) -> Any:
        return {"wind": jax.vmap(jax.random.uniform)(rng)}, {"wind": 0}

    ppo = dataclasses.replace(toy_task(), randomization_fn=randomize).make_ppo()
    together = jax.jit(jax.vmap(ppo.init))(np.arange(2, dtype=np.uint32))
    together, _ = jax.jit(jax.vmap(ppo.epoch, (0, None)))(together, np.int32(1))
    alone, _ = jax.jit(ppo.epoch)(jax.jit(ppo.init)(np.uint32(1)), np.int32(1))
    winds = together.env_state.pipeline_state["wind"]
    assert len(np.unique(winds)) == 2 * TINY.num_envs
    np.testing.assert_array_equal(winds[1], alone.env_state.pipeline_state["wind"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("learning_rate", 1e-2), ("entropy_cost", 1.0)])
def test_members_may_differ_in_their_numeric_settings(name: str, value: float) -> None:
    ppo = toy_task().make_ppo()
    values = np.array([getattr(TINY, name), value], np.float32)
    given = HyperParameters.of(TINY)
    many = jax.tree.map(lambda x: np.repeat(x, 2), given).replace(**{name: values})
    states = jax.jit(jax.vmap(ppo.init))(np.zeros(2, np.uint32), many)
    states, _ = jax.jit(jax.vmap(ppo.epoch, (0, None)))(states, np.int32(3))
    change: dict[str, Any] = {name: value}
    ppo = toy_task(**change).make_ppo()
    alone, _ = jax.jit(ppo.epoch)(jax.jit(ppo.init)(np.uint32(0)), np.int32(3))

    def distance(member: int) -> float:
        apart = jax.tree.map(lambda a, b: jnp.abs(a[member] - b).max(), states.params, alone.params)
        return float(max(jax.tree.leaves(apart)))

    assert distance(1) < 1e-5 < 1e-4 < distance(0)


def test_training_episodes_are_counted_with_their_metrics() -> None:
    ppo = toy_task().make_ppo()
    _, totals = jax.jit(ppo.epoch)(jax.jit(ppo.init)(np.uint32(0)), np.int32(2))
    means = jax.device_get(totals).means()
    # 2 updates of 8 rollouts of 4 steps, in episodes of 8 steps
    assert (means["training/episodes"], means["training/episode_length"]) == (8, 8)
    np.testing.assert_allclose(
        means["training/episode_reward"], -means["training/episode_distance"], rtol=1e-6
    )
    assert means["training/reward_min"] < means["training/reward_max"] <= 0


# ---- refused before anything compiles -----------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_envs": 3}, "use num_envs 2 or 4, or batch_size 3"),
        ({"num_timesteps": 0}, "num_timesteps is 0, which has to be greater than 0"),
        ({"num_timesteps": 1.5}, "which has to be a whole number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": "fast"}, "'fast', which has to be a plain Python number"),
        ({"max_grad_norm": 0.0}, "greater than 0, or None"),
        ({"learning_rate_schedule": "cosine"}, "one of linear, constant, adaptive_kl"),
        ({"normalize_observations": 1}, "true or false"),
        ({"discounting": 1.5}, "from 0 to 1"),
        ({"seed": -1}, "from 0 to 4,294,967,295"),
        ({"episode_length": 9, "action_repeat": 2}, "use 8"),
        ({"episode_length": 1}, "episode_length 2"),
        ({"num_evals": 1}, "from 2 to 1,000,000: one before training and one after"),
        # Neither takes long.
        (
            {"batch_size": 10**9 + 7, "num_envs": 3},
            "batch_size is .* from 1 to 1,000,000",
        ),
        ({"batch_size": 999_983, "num_minibatches": 999_979, "num_envs": 3}, "use num_envs 1 or"),
        ({"num_timesteps": 10**13}, "fewer than 2147483648"),
        ({"seed": 2**32 - 2, "num_seeds": 3}, "use a smaller seed"),
    ],
)
def test_settings_that_can_not_run(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(TINY, **changes)


def vector_of_ints(x: jax.Array) -> jax.Array:
    return jnp.zeros(2, jnp.int32)


@pytest.mark.parametrize(
    ("observe", "sentence"),
    [
        (OBSERVATIONS["image alone"], "has an image, pixels/view, which takes an encoder"),
        (OBSERVATIONS["vector and image"], "has an image, pixels/view, which takes an encoder"),
        (lambda x: jnp.zeros((3, 4)) + x, r'shape \(3, 4\).*\{"pixels/view": image\}'),
        (lambda x: {"view": jnp.zeros((3, 4)) + x}, '"pixels/view"'),
        (lambda x: {"a": {"b": x[None]}}, "'a' is a dict"),
        (lambda x: (x[None], x[None]), "one array, or a dict of arrays"),
        (lambda x: {}, "is an empty dict"),
        (lambda x: {"privileged_state": x[None]}, "would see no entry"),
        (vector_of_ints, "is int32, which has to be float32"),
    ],
)
def test_observations_that_can_not_be_trained_on(observe: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        toy_task(observe=observe).make_ppo()


def test_keys_that_can_not_be_seen() -> None:
    with pytest.raises(UsageError, match=r"a list of names: \['state'\]"):
        make_network_factory(Continuous(2), policy_obs_keys="state")
    factory = make_network_factory(Continuous(2), policy_obs_keys=["state"])
    with pytest.raises(UsageError, match="entries state, but the observation is flat"):
        factory((3,), 2)
    with pytest.raises(UsageError, match="has no entry 'state'; its entries are a, b"):
        factory({"a": (3,), "b": (2,)}, 2)


def test_an_image_may_be_left_out_on_purpose() -> None:
    task = toy_task(observe=OBSERVATIONS["vector and image"])
    factory = dataclasses.replace(
        task.network_factory, policy_obs_keys=("state",), value_obs_keys=("state",)
    )
    dataclasses.replace(task, network_factory=factory).make_ppo()


@pytest.mark.parametrize("space", ["discrete", "multi_discrete"])
def test_networks_for_other_actions(space: str) -> None:
    continuous = toy_task(Continuous(SPACES[space].size)).network_factory
    task = dataclasses.replace(toy_task(SPACES[space]), network_factory=continuous)
    with pytest.raises(UsageError, match="but the environment takes"):
        task.make_ppo()


def test_networks_of_another_size() -> None:
    task = dataclasses.replace(toy_task(), network_factory=toy_task(Continuous(5)).network_factory)
    with pytest.raises(UsageError, match=r"built for .*5.*action_size is 2"):
        task.make_ppo()


def test_the_policy_does_not_see_what_is_privileged() -> None:
    ppo = toy_task(observe=OBSERVATIONS["two vectors"]).make_ppo()
    obs = {"state": jnp.zeros((1, 1)), "privileged_state": jnp.zeros((1, 3))}
    other = {**obs, "privileged_state": jnp.ones((1, 3))}
    state = jax.jit(ppo.init)(np.uint32(0))
    statistics = state.normalizer_params
    params = jax.tree.map(lambda x: x + 0.1, state.params)  # some of the value's start at 0
    for network, weights, sees in (
        (ppo.networks.policy_network, params.policy, False),
        (ppo.networks.value_network, params.value, True),
    ):
        same = np.array_equal(
            network.apply(statistics, weights, obs), network.apply(statistics, weights, other)
        )
        assert same != sees


def test_the_activation_is_that_of_the_hidden_layers() -> None:
    space = SPACES["discrete"]
    networks = make_network_factory(space, activation=jnp.zeros_like)((2,), space.size)
    params = networks.policy_network.init(jax.random.PRNGKey(0))
    logits = networks.policy_network.apply(None, params, jnp.ones((4, 2)))
    np.testing.assert_array_equal(logits, 0)


def test_brax_s_own_networks_do() -> None:
    task = dataclasses.replace(toy_task(), network_factory=brax_networks.make_ppo_networks)
    ppo = task.make_ppo()
    jax.eval_shape(ppo.update, jax.eval_shape(ppo.init, np.uint32(0)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_every_observation_trains(kind: str) -> None:
    ppo = toy_task(observe=OBSERVATIONS[kind], encoder=Encoder()).make_ppo()
    before = jax.jit(ppo.init)(np.uint32(0))
    after, totals = jax.jit(ppo.update)(before)
    assert np.isfinite(totals.metrics["total_loss"])
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(
            jax.tree.leaves(before.params.policy),
            jax.tree.leaves(after.params.policy),
            strict=True,
        )
    )
