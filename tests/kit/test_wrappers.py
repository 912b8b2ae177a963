"""What a user relies on under the training wrappers: episodes, fresh starts and what they cost."""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bases import Base
from brax.envs.base import Env, State
from brax.envs.wrappers.training import EvalWrapper, VmapWrapper
from jax._src.interpreters import batching
from kit.check import examine
from kit.env.actions import Discrete
from kit.env.frames import FrameStack
from kit.env.render import draw
from kit.env.time_limit import EpisodeWrapper
from kit.env.wrappers import wrap_for_evaluation, wrap_for_training
from kit.errors import UsageError
from kit.ppo.task import Task
from mjx_cartpole import MjxCartPole
from toys import OBSERVATIONS, TINY, Toy, image

LENGTH = 5
BATCH = 4


class Walk(Base):
    """Counts its steps, in its state and in `info`; ends by itself when the action is negative."""

    observation_size = 2
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        start = jax.random.uniform(rng, dtype=jnp.float32)
        zero = jnp.zeros((), jnp.float32)
        obs = jnp.stack([start, zero])
        return State({"t": zero, "start": start}, obs, zero, zero, {"t": zero}, {"own": start})

    def step(self, state: State, action: jax.Array) -> State:
        t, start = state.pipeline_state["t"] + 1, state.pipeline_state["start"]
        return state.replace(
            pipeline_state={**state.pipeline_state, "t": t},
            obs=jnp.stack([start, t]),
            reward=jnp.ones((), jnp.float32),
            done=(action[0] < 0).astype(jnp.float32),
            metrics={**state.metrics, "t": t},
            info={**state.info, "own": state.info["own"] + 1},
        )


def rollout(env: Env, keys: jax.Array, actions: Any) -> tuple[State, State]:
    """The state after reset, (batch, ...), and after each step, (time, batch, ...)."""

    def step(state: State, action: jax.Array) -> tuple[State, State]:
        state = env.step(state, action)
        return state, state

    start = env.reset(keys)
    return start, jax.lax.scan(step, start, jnp.asarray(actions))[1]


def run(env: Env, actions: np.ndarray, seed: int = 0) -> tuple[State, State]:
    keys = jax.random.split(jax.random.PRNGKey(seed), actions.shape[1])
    return jax.device_get(jax.jit(lambda *args: rollout(env, *args))(keys, actions))


def run_seeds(env: Env, actions: np.ndarray, seeds: int = 3) -> tuple[State, State]:
    """Like `run`, vmapped over seeds: (seeds, ...) in front."""
    keys = jax.vmap(lambda key: jax.random.split(key, actions.shape[1]))(
        jax.vmap(jax.random.PRNGKey)(jnp.arange(seeds))
    )
    many = jax.vmap(lambda keys: rollout(env, keys, actions))
    return jax.device_get(jax.jit(many)(keys))


def onwards(steps: int, batch: int = BATCH) -> np.ndarray:
    """Actions that end no episode."""
    return np.ones((steps, batch, 1), np.float32)


@pytest.fixture(scope="module")
def seen() -> tuple[State, State]:
    """Three time limits; the first environment also ends by itself at its third step."""
    actions = onwards(3 * LENGTH)
    actions[2, 0] = -1
    return run(wrap_for_training(Walk(), LENGTH), actions)


def test_steps_count_from_one_in_every_episode(seen: tuple[State, State]) -> None:
    steps = seen[1].info["steps"]
    assert steps[:, 1].tolist() == [1, 2, 3, 4, 5] * 3
    assert steps[:, 0].tolist() == [1, 2, 3, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]


def test_truncation_tells_time_limits_from_ends(seen: tuple[State, State]) -> None:
    truncation, done = seen[1].info["truncation"], seen[1].done
    assert done[:, 0].tolist() == [0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert truncation[:, 0].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert truncation[:, 1].tolist() == ([0] * 4 + [1]) * 3
    np.testing.assert_array_equal(seen[1].info["episode_done"], done)


def test_episode_metrics_are_those_of_one_episode(seen: tuple[State, State]) -> None:
    metrics, done = seen[1].info["episode_metrics"], seen[1].done.astype(bool)
    assert metrics["length"][done[:, 0], 0].tolist() == [3, 5, 5]
    assert metrics["sum_reward"][done[:, 1], 1].tolist() == [5, 5, 5]
    assert metrics["t"][done[:, 1], 1].tolist() == [15, 15, 15]


def test_reward_and_metrics_are_of_the_step_that_ended(seen: tuple[State, State]) -> None:
    assert seen[1].reward[LENGTH - 1, 1] == 1
    assert seen[1].metrics["t"][LENGTH - 1, 1] == LENGTH


def test_the_environments_own_state_is_renewed(seen: tuple[State, State]) -> None:
    after = seen[1]
    ended = after.done.astype(bool)
    assert np.all(after.pipeline_state["t"][ended] == 0)
    assert np.all(after.obs[..., 1][ended] == 0)
    np.testing.assert_array_equal(after.info["own"][ended], after.obs[..., 0][ended])
    np.testing.assert_allclose(
        after.info["own"] - after.obs[..., 0], after.obs[..., 1], rtol=1e-5, atol=1e-5
    )


def test_the_last_observation_is_kept_on_request(seen: tuple[State, State]) -> None:
    start, after = seen
    final, ended = after.info["final_obs"], after.done.astype(bool)
    assert np.all(final[..., 1][ended] == after.metrics["t"][ended])
    np.testing.assert_array_equal(final[~ended], after.obs[~ended])
    before = np.concatenate([start.obs[None], after.obs[:-1]])
    np.testing.assert_array_equal(final[..., 0], before[..., 0])


def test_nothing_is_stored_that_is_not_needed() -> None:
    keys = jax.ShapeDtypeStruct((BATCH, 2), jnp.uint32)
    state = jax.eval_shape(wrap_for_training(Walk(), LENGTH).reset, keys)
    brax = {"steps", "truncation", "episode_done", "episode_metrics"}
    assert set(state.info) - brax == {"own", "reset_key", "final_obs", "not_finite"}


def test_every_start_is_another_one(seen: tuple[State, State]) -> None:
    start, after = seen
    starts = [start.obs[:, 0], *(after.obs[t][after.done[t] > 0, 0] for t in range(3 * LENGTH))]
    assert len(np.unique(np.concatenate(starts))) == BATCH + after.done.sum()


@pytest.mark.parametrize("batch", [1, 300])
def test_starts_are_what_reset_gives(batch: int) -> None:
    """Few environments are reset at a time: here all of them end together."""
    start, after = run(wrap_for_training(Walk(), LENGTH), onwards(LENGTH, batch))
    keys = jax.vmap(jax.random.split)(start.info["reset_key"])
    fresh = jax.vmap(Walk().reset)(keys[:, 0])
    np.testing.assert_array_equal(after.obs[-1], fresh.obs)
    np.testing.assert_array_equal(after.pipeline_state["start"][-1], fresh.obs[:, 0])
    np.testing.assert_array_equal(after.info["reset_key"][-1], keys[:, 1])


def test_only_those_that_ended_start_again() -> None:
    batch = 300
    actions = onwards(1, batch)
    ended = np.random.default_rng(0).random(batch) < 0.1
    actions[0, ended] = -1
    start, after = run(wrap_for_training(Walk()), actions)
    changed = after.obs[0, :, 0] != start.obs[:, 0]
    np.testing.assert_array_equal(changed, ended)
    changed = np.any(after.info["reset_key"][0] != start.info["reset_key"], axis=1)
    np.testing.assert_array_equal(changed, ended)


@pytest.mark.slow
def test_seeds_are_the_same_alone_and_under_vmap() -> None:
    env = wrap_for_training(Walk(), LENGTH)
    actions = onwards(2 * LENGTH)
    actions[2, 0] = -1
    together = run_seeds(env, actions)
    for seed in range(3):
        one = jax.tree.map(lambda x, seed=seed: x[seed], together)
        jax.tree.map(np.testing.assert_array_equal, one, run(env, actions, seed))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [None, 3])
def test_few_more_resets_are_computed_than_episodes_end(seeds: int | None) -> None:
    resets = 0

    def count() -> None:
        nonlocal resets
        resets += 1

    class Counted(Walk):
        def reset(self, rng: jax.Array) -> State:
            jax.debug.callback(lambda _: count(), rng)
            return super().reset(rng)

    env = wrap_for_training(Counted())
    batch, steps = 64, 10
    actions = onwards(steps, batch)
    actions[5, 7] = -1
    run_seeds(env, actions, seeds) if seeds else run(env, actions)
    jax.effects_barrier()
    first = batch * (seeds or 1)
    assert first < resets <= first + 8


def test_a_broken_done_does_not_hang() -> None:
    class Broken(Walk):
        def step(self, state: State, action: jax.Array) -> State:
            state = super().step(state, action)
            return state.replace(done=jnp.where(action[0] < 0, 1.0, jnp.nan))

    actions = onwards(1, 64)
    actions[0, -1] = -1
    _, after = run(wrap_for_training(Broken()), actions)
    assert after.pipeline_state["t"][0].tolist() == [1] * 63 + [0]


def test_a_curriculum_survives_auto_reset() -> None:
    class Curriculum(Walk):
        preserve_info = ("level",)

        def reset(self, rng: jax.Array) -> State:
            state = super().reset(rng)
            return state.replace(info={**state.info, "level": jnp.zeros(())})

        def step(self, state: State, action: jax.Array) -> State:
            state = super().step(state, action)
            return state.replace(info={**state.info, "level": state.info["level"] + 1})

    _, after = run(wrap_for_training(Curriculum(), LENGTH), onwards(2 * LENGTH))
    assert after.info["level"][:, 0].tolist() == list(range(1, 2 * LENGTH + 1))
    assert np.all(after.info["own"][LENGTH - 1] < 1)


# Action repeat


class Ends(Walk):
    """Ends by itself at the third step of each episode, and pays the number of the step."""

    def step(self, state: State, action: jax.Array) -> State:
        state = super().step(state, action)
        t = state.metrics["t"]
        return state.replace(reward=t, done=(t == 3).astype(jnp.float32))


def test_repeating_stops_where_the_episode_ends() -> None:
    env = wrap_for_training(Ends(), 8, action_repeat=2)
    _, after = run(env, onwards(4))
    assert after.done[:, 0].tolist() == [0, 1, 0, 1]
    assert after.info["truncation"][:, 0].tolist() == [0, 0, 0, 0]
    assert after.info["steps"][:, 0].tolist() == [2, 3, 2, 3]
    assert after.reward[:, 0].tolist() == [1 + 2, 3, 1 + 2, 3]
    assert after.metrics["t"][:, 0].tolist() == [1 + 2, 3, 1 + 2, 3]
    assert after.info["final_obs"][:, 0, 1].tolist() == [2, 3, 2, 3]
    for name, total in {"sum_reward": 6, "t": 6, "length": 3}.items():
        assert after.info["episode_metrics"][name][after.done > 0].tolist() == [total] * 2 * BATCH


def test_repeated_steps_count_towards_the_time_limit() -> None:
    _, after = run(wrap_for_training(Walk(), 4, action_repeat=2), onwards(4))
    assert after.info["steps"][:, 0].tolist() == [2, 4, 2, 4]
    assert after.reward[:, 0].tolist() == [2, 2, 2, 2]
    assert after.info["truncation"][:, 0].tolist() == [0, 1, 0, 1]


def test_no_loop_without_repeating() -> None:
    env = EpisodeWrapper(VmapWrapper(Walk()), LENGTH)
    state = env.reset(jax.random.split(jax.random.PRNGKey(0), BATCH))
    program = str(jax.make_jaxpr(env.step)(state, jnp.ones((BATCH, 1))))
    assert "scan" not in program
    assert "while" not in program


# Evaluation


@pytest.mark.parametrize("wrap", [wrap_for_training, wrap_for_evaluation])
@pytest.mark.parametrize("action_repeat", [1, 2])
def test_evaluation_sees_one_episode(wrap: Any, action_repeat: int) -> None:
    env = EvalWrapper(wrap(Ends(), 6, action_repeat))
    _, after = run(env, onwards(10))
    metrics = after.info["eval_metrics"]
    assert metrics.episode_metrics["reward"][-1].tolist() == [6] * BATCH
    assert metrics.episode_metrics["t"][-1].tolist() == [6] * BATCH
    assert metrics.episode_steps[-1].tolist() == [3] * BATCH


def test_evaluation_ignores_what_follows_the_end() -> None:
    class BreaksDown(Ends):
        def step(self, state: State, action: jax.Array) -> State:
            state = super().step(state, action)
            t = jnp.where(state.metrics["t"] > 3, jnp.nan, state.metrics["t"])
            return state.replace(reward=t, metrics={**state.metrics, "t": t})

    env = EvalWrapper(wrap_for_evaluation(BreaksDown(), 10))
    _, after = run(env, onwards(10))
    assert np.all(after.done[2:] == 1)
    assert after.info["eval_metrics"].episode_metrics["reward"][-1].tolist() == [6] * BATCH


# Domain randomisation


@flax.struct.dataclass
class System:
    wind: jax.Array
    mass: jax.Array
    name: str | None = flax.struct.field(pytree_node=False, default=None)


class Windy(Walk):
    def __init__(self) -> None:
        self.sys = System(wind=jnp.zeros(2), mass=jnp.ones(3))

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        assert self.sys.wind.shape == (2,)
        return state.replace(obs=state.obs.at[0].add(self.sys.wind[0] * self.sys.mass[0]))


@pytest.mark.slow
def test_gradients_flow_through_an_episode_and_not_into_the_next_one() -> None:
    """`brax.training.agents.apg` differentiates whole rollouts."""
    steps, length = 5, 3
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, BATCH, 2)).astype(np.float32)
    keys = jax.random.split(jax.random.PRNGKey(0), BATCH)

    def rewards(env: Env, actions: jax.Array) -> jax.Array:
        return rollout(env, keys, actions)[1].reward

    def gradient(env: Env, start: int, end: int) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(rewards(env, x)[start:end]))(actions)

    wrapped = wrap_for_training(Toy(), length)
    first, second = gradient(wrapped, 0, length), gradient(wrapped, length, steps)
    start = wrap_for_training(Toy(), length).reset(keys)

    def unwrapped(x: jax.Array) -> jax.Array:
        def step(state: State, action: jax.Array) -> tuple[State, jax.Array]:
            state = env.step(state, action)
            return state, state.reward

        return jnp.sum(jax.lax.scan(step, start, x[:length])[1])

    env = VmapWrapper(Toy())
    np.testing.assert_allclose(first, jax.grad(unwrapped)(actions), rtol=1e-6)
    assert np.all(second[:length] == 0)
    assert np.any(second[length:] != 0)


def test_randomisation_needs_something_to_randomise() -> None:
    with pytest.raises(
        UsageError, match=r"changes env\.sys, which Walk does not have: set self\.sys"
    ):
        wrap_for_training(Walk(), LENGTH, randomization_fn=lambda sys: (sys, None))


def randomize(sys: System) -> tuple[System, System]:
    winds: Any = np.stack([10.0 * np.arange(BATCH), np.zeros(BATCH)], axis=1, dtype=np.float32)
    in_axes = dataclasses.replace(jax.tree.map(lambda x: None, sys), wind=0)
    return dataclasses.replace(sys, wind=winds), in_axes


def test_an_environment_keeps_its_randomised_system() -> None:
    env = wrap_for_training(Windy(), LENGTH, randomization_fn=randomize)
    start, after = run_seeds(env, onwards(LENGTH))
    for obs in (start.obs, after.obs[:, -1]):
        assert (obs[..., 0] // 10).tolist() == [[0, 1, 2, 3]] * 3
    assert np.all(after.done[:, -1] == 1)
    # One that ends alone gets its own system, not that of the first row.
    actions = onwards(1)
    actions[0, 2] = -1
    _, after = run(env, actions)
    assert after.obs[0, 2, 0] // 10 == 2


def test_seeds_may_randomise_their_own_systems() -> None:
    def one(seed: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        def randomize_for_seed(sys: System) -> tuple[System, System]:
            sys, in_axes = randomize(sys)
            return dataclasses.replace(sys, wind=sys.wind + 100.0 * seed), in_axes

        env = wrap_for_training(Windy(), LENGTH, randomization_fn=randomize_for_seed)
        start, after = rollout(env, keys, onwards(LENGTH))
        return start.obs, after.obs[-1]

    keys = jax.random.split(jax.random.PRNGKey(0), BATCH)
    for obs in jax.jit(jax.vmap(one, (0, None)))(jnp.arange(2), keys):
        assert (obs[..., 0] // 10).tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]


# States of many kinds


class Odd(Walk):
    """With a typed key and an empty array in its state."""

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        odd = {"key": jax.random.key(jax.random.bits(rng)), "empty": jnp.zeros((0, 3))}
        return state.replace(pipeline_state={**state.pipeline_state, **odd})


@pytest.mark.slow
@pytest.mark.parametrize("action_repeat", [1, 2])
def test_typed_keys_and_empty_arrays_may_be_in_the_state(action_repeat: int) -> None:
    env = wrap_for_training(Odd(), 4, action_repeat)
    for go in (run, run_seeds):
        states = go(env, onwards(4 // action_repeat))
        was, now = (jax.random.key_data(state.pipeline_state["key"]) for state in states)
        assert jnp.all(now[..., 0, :, :] == was)
        assert jnp.all(jnp.any(now[..., -1, :, :] != was, axis=-1))
        assert states[1].pipeline_state["empty"].size == 0


def test_reset_takes_typed_keys() -> None:
    env = wrap_for_training(Walk(), LENGTH)
    keys = jax.random.split(jax.random.key(0), BATCH)
    _, after = jax.jit(lambda keys: rollout(env, keys, onwards(2 * LENGTH)))(keys)
    assert after.info["steps"][:, 0].tolist() == [1, 2, 3, 4, 5] * 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Contacts:
    """As in MJX-Warp: under `vmap` the batch shares `buffer`, and has `force` for each."""

    force: Any
    buffer: Any


batching.register_vmappable(
    Contacts,
    int,
    int,
    lambda convert, _, x, axis: Contacts(convert(x.force, axis), x.buffer),
    lambda convert, size, x, axis: Contacts(convert(size, x.force, axis), x.buffer),
    None,
)


class Shared(Walk):
    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        contacts = Contacts(jax.random.uniform(rng, (2,)), jnp.zeros((7, 2)))
        return state.replace(pipeline_state={**state.pipeline_state, "contacts": contacts})


@pytest.mark.slow
@pytest.mark.parametrize("action_repeat", [1, 2])
def test_arrays_that_the_batch_shares_are_left_alone(action_repeat: int) -> None:
    env = wrap_for_training(Shared(), 4, action_repeat)
    steps = 4 // action_repeat
    for go in (run, run_seeds):
        start, after = go(env, onwards(steps))
        was, now = (state.pipeline_state["contacts"] for state in (start, after))
        assert now.buffer.shape == (steps, 7, 2)
        assert np.all(now.force[..., 0, :, :] == was.force)
        assert np.all(now.force[..., -1, :, :] != was.force)


@pytest.mark.slow
def test_dtypes_stay_with_and_without_x64() -> None:
    env = wrap_for_training(Walk(), 4, 2)
    for x64 in (False, True):
        with jax.enable_x64(x64):
            keys = jax.random.split(jax.random.PRNGKey(0), BATCH)
            state = env.reset(keys)
            after = jax.jit(env.step)(state, jnp.ones((BATCH, 1), jnp.float32))
        dtypes, dtypes_after = (jax.tree.map(lambda x: x.dtype, s) for s in (state, after))
        assert dtypes == dtypes_after
        assert {str(x) for x in jax.tree.leaves(dtypes)} == {"float32", "uint32", "bool"}


@pytest.mark.slow
def test_mjx_data_goes_through() -> None:
    env = wrap_for_training(MjxCartPole(), LENGTH)
    keys = jax.ShapeDtypeStruct((8, 2), jnp.uint32)
    state = jax.eval_shape(env.reset, keys)
    after = jax.eval_shape(env.step, state, jax.ShapeDtypeStruct((8, 1), jnp.float32))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, after)


def frames(env: Env, actions: list[float], seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Observations of an environment along an episode, and of its stack of three."""
    observations: list[list[Any]] = []
    for one in (env, FrameStack(env, 3)):
        state, step = jax.jit(one.reset)(jax.random.PRNGKey(seed)), jax.jit(one.step)
        observations.append([state.obs])
        for action in actions:
            state = step(state, jnp.full(2, action))
            observations[-1].append(state.obs)
    return observations[0], observations[1]


@pytest.mark.parametrize("kind", ["flat", "vector and image"])
def test_a_stack_holds_the_last_observations_the_oldest_first(kind: str) -> None:
    """The first one fills it; images are stacked along their channels."""
    one, stacked = frames(Toy(observe=OBSERVATIONS[kind]), [1.0, -1.0, 0.5, 1.0])
    for t, seen in enumerate(stacked):
        last = [one[max(t - back, 0)] for back in (2, 1, 0)]
        wanted = jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *last)
        jax.tree.map(np.testing.assert_array_equal, seen, wanted)
        assert jax.tree.map(jnp.dtype, seen) == jax.tree.map(jnp.dtype, one[t])


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_a_stack_declares_its_size(kind: str) -> None:
    env = FrameStack(Toy(Discrete(3), OBSERVATIONS[kind]), 3)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(env.reset, jax.random.PRNGKey(0)).obs)
    assert env.observation_size == (shapes if isinstance(shapes, dict) else shapes[0])
    assert (env.action_space, env.action_size) == (Discrete(3), 3)


@pytest.mark.slow
def test_a_stack_keeps_every_rule() -> None:
    def observe(x: jax.Array) -> Any:
        return {"state": jnp.stack([x, -x]), "pixels/view": image(x)}

    found = [
        examine(Task(make, TINY, network_factory=None)).violations  # type: ignore[arg-type]
        for make in (lambda: FrameStack(Toy(observe=observe), 2), lambda: Toy(observe=observe))
    ]
    assert found[0] == found[1]


def test_the_environment_sees_its_own_observation_and_state() -> None:
    """An environment may step from its last observation."""

    class Sum(Walk):
        def step(self, state: State, action: jax.Array) -> State:
            obs = state.obs + action
            assert obs.shape == (2,)
            return super().step(state, action).replace(obs=obs)

    _, after = run(wrap_for_training(FrameStack(Sum(), 2), LENGTH), onwards(LENGTH - 1))
    np.testing.assert_allclose(after.obs[-1, :, 2:] - after.obs[-1, :, :2], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(after.pipeline_state["t"][-1], LENGTH - 1)


def test_a_new_episode_starts_with_a_new_stack() -> None:
    actions = onwards(2 * LENGTH)
    actions[2, 0] = -1
    env = wrap_for_training(FrameStack(Walk(), 3), LENGTH)
    _, after = run(env, actions)
    starts, times = after.obs[..., ::2], after.obs[..., 1::2]
    assert np.all(starts == starts[..., :1])  # nothing of the episode before
    assert times[:, 0].tolist()[:6] == [
        [0, 0, 1],
        [0, 1, 2],
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 2],
        [1, 2, 3],
    ]
    assert after.info["final_obs"][2, 0, 1::2].tolist() == [1, 2, 3]


def test_a_stack_is_drawn_as_its_environment() -> None:
    env = Toy(observe=OBSERVATIONS["image alone"])
    keys = jax.random.split(jax.random.PRNGKey(0), 1)
    one, stacked = (np.asarray(draw(e, VmapWrapper(e).reset(keys))) for e in (env, FrameStack(env)))
    np.testing.assert_array_equal(one, stacked)


@pytest.mark.parametrize("num_frames", [0, -1, 2.0])
def test_a_stack_of_no_frames_is_refused(num_frames: Any) -> None:
    with pytest.raises(UsageError, match=f"num_frames is {num_frames}, .* above 0"):
        FrameStack(Walk(), num_frames)
