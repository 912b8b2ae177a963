"""What the training wrappers promise: facts about steps, truncation, starts and memory."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bases import Base
from brax.envs.base import Env, State
from brax.envs.wrappers import training
from brax.envs.wrappers.training import EvalWrapper
from kit.wrappers import wrap_for_training

LENGTH = 5
BATCH = 4


class Walk(Base):
    """Counts its own steps, in its state and in `info`; ends by itself where it went down."""

    observation_size = 2
    action_size = 1

    def reset(self, rng: jax.Array) -> State:
        start = jax.random.uniform(rng)
        zero = jnp.zeros(())
        obs = jnp.stack([start, zero])
        return State({"t": zero, "start": start}, obs, zero, zero, {"t": zero}, {"own": start})

    def step(self, state: State, action: jax.Array) -> State:
        t, start = state.pipeline_state["t"] + 1, state.pipeline_state["start"]
        return state.replace(
            pipeline_state={"t": t, "start": start},
            obs=jnp.stack([start, t]),
            reward=jnp.ones(()),
            done=(action[0] < 0).astype(jnp.float32),
            metrics={**state.metrics, "t": t},
            info={**state.info, "own": state.info["own"] + 1},
        )


def run(wrapped: Env, actions: np.ndarray, seed: int = 0) -> tuple[State, State]:
    """The state after reset, (B, ...), and after each step, (T, B, ...)."""

    def step(state: State, action: jax.Array) -> tuple[State, State]:
        state = wrapped.step(state, action)
        return state, state

    @jax.jit
    def episodes(keys: jax.Array, actions: jax.Array) -> tuple[State, State]:
        start = wrapped.reset(keys)
        return start, jax.lax.scan(step, start, actions)[1]

    keys = jax.random.split(jax.random.PRNGKey(seed), BATCH)
    return jax.device_get(episodes(keys, jnp.asarray(actions)))


@pytest.fixture(scope="module")
def actions() -> np.ndarray:
    """Three episodes: the first environment ends one by itself at step 3, the others never."""
    actions = np.ones((3 * LENGTH, BATCH, 1), np.float32)
    actions[2, 0] = -1
    return actions


@pytest.fixture(scope="module", params=["fresh", "pool"])
def seen(request: pytest.FixtureRequest, actions: np.ndarray) -> tuple[State, State]:
    """A run under each kind of auto-reset that renews what the environment owns."""
    wrapped = wrap_for_training(
        Walk(), episode_length=LENGTH, resets=request.param, keep_final_obs=True
    )
    return run(wrapped, actions)


def test_steps_count_from_one_in_every_episode(seen: tuple[State, State]) -> None:
    steps = seen[1].info["steps"]
    assert steps[:, 1].tolist() == [1, 2, 3, 4, 5] * 3
    assert steps[:, 0].tolist() == [1, 2, 3, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]


def test_truncation_tells_time_outs_from_ends(seen: tuple[State, State]) -> None:
    truncation, done = seen[1].info["truncation"], seen[1].done
    assert done[:, 0].tolist() == [0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert truncation[:, 0].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert truncation[:, 1].tolist() == ([0] * 4 + [1]) * 3
    np.testing.assert_array_equal(seen[1].info["episode_done"], done)


def test_episode_metrics_are_those_of_one_episode(seen: tuple[State, State]) -> None:
    metrics, done = seen[1].info["episode_metrics"], seen[1].done.astype(bool)
    lengths = np.where(np.arange(len(done)) == 2, 3.0, 5.0)
    np.testing.assert_array_equal(metrics["length"][done[:, 0], 0], lengths[done[:, 0]])
    np.testing.assert_array_equal(metrics["sum_reward"][done[:, 1], 1], [5, 5, 5])
    np.testing.assert_array_equal(metrics["t"][done[:, 1], 1], [15, 15, 15])


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
    was = np.concatenate([start.obs[None], after.obs[:-1]])
    np.testing.assert_array_equal(final[..., 0], was[..., 0])


def starts(states: tuple[State, State]) -> np.ndarray:
    """Where episodes started: (3, BATCH), after reset and after the two time-outs."""
    start, after = states
    return np.stack([start.obs[:, 0], after.obs[LENGTH, :, 0], after.obs[2 * LENGTH, :, 0]])


def test_fresh_starts_are_all_different() -> None:
    wrapped = wrap_for_training(Walk(), episode_length=LENGTH)
    where = starts(run(wrapped, np.ones((3 * LENGTH, BATCH, 1), np.float32)))
    assert len(np.unique(where)) == where.size


def test_fresh_starts_are_what_reset_gives() -> None:
    wrapped = wrap_for_training(Walk(), episode_length=LENGTH)
    start, after = run(wrapped, np.ones((LENGTH, BATCH, 1), np.float32))
    keys = jax.vmap(jax.random.split)(start.info["reset_key"])[:, 0]
    fresh = jax.vmap(Walk().reset)(keys)
    np.testing.assert_array_equal(after.obs[-1], fresh.obs)
    np.testing.assert_array_equal(after.pipeline_state["start"][-1], fresh.obs[:, 0])


def test_pooled_starts_are_drawn_from_the_pool() -> None:
    wrapped = wrap_for_training(Walk(), LENGTH, resets="pool", num_starts=8 * BATCH)
    states = run(wrapped, np.ones((3 * LENGTH, BATCH, 1), np.float32))
    pool = states[0].info["reset_pool"][0][..., 0]
    where = starts(states)[1:]
    assert pool.shape == (BATCH, 8)
    assert np.all(np.isin(where, pool))
    assert len(np.unique(where)) > BATCH / 2
    # Others' starts are drawn too.
    assert any(where[t, i] not in pool[i] for t in range(2) for i in range(BATCH))


def test_cached_starts_are_brax_s_own() -> None:
    actions = np.ones((3 * LENGTH, BATCH, 1), np.float32)
    ours = run(wrap_for_training(Walk(), LENGTH, resets="cached"), actions)
    theirs = run(training.wrap(Walk(), LENGTH), actions)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    where = starts(ours)
    np.testing.assert_array_equal(where[0], where[1])


def test_nothing_is_kept_that_is_not_needed() -> None:
    keys = jax.ShapeDtypeStruct((BATCH, 2), jnp.uint32)
    state = jax.eval_shape(wrap_for_training(Walk(), LENGTH).reset, keys)
    bare = {"steps", "truncation", "episode_done", "episode_metrics"}
    assert set(state.info) - bare == {"own", "reset_key"}


def test_action_repeat_counts_repeated_steps() -> None:
    wrapped = wrap_for_training(Walk(), episode_length=4, action_repeat=2)
    _, after = run(wrapped, np.ones((4, BATCH, 1), np.float32))
    assert after.info["steps"][:, 0].tolist() == [2, 4, 2, 4]
    assert after.reward[:, 0].tolist() == [2, 2, 2, 2]
    assert after.done[:, 0].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("resets", ["fresh", "pool", "cached"])
def test_evaluation_sees_one_episode(resets: Any) -> None:
    wrapped = EvalWrapper(wrap_for_training(Walk(), LENGTH, resets=resets))
    _, after = run(wrapped, np.ones((2 * LENGTH, BATCH, 1), np.float32))
    metrics = after.info["eval_metrics"]
    np.testing.assert_array_equal(metrics.episode_metrics["reward"][-1], np.full(BATCH, LENGTH))
    np.testing.assert_array_equal(metrics.episode_steps[-1], np.full(BATCH, LENGTH))


class Windy(Walk):
    """With something to randomise, where Brax looks for it."""

    def __init__(self) -> None:
        self.sys = {"wind": jnp.zeros(())}

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        return state.replace(obs=state.obs.at[0].add(self.sys["wind"]))


def randomize(sys: Any) -> tuple[Any, Any]:
    return {"wind": 10.0 * jnp.arange(BATCH)}, {"wind": 0}


def test_randomised_domains_keep_their_place() -> None:
    wrapped = wrap_for_training(Windy(), LENGTH, randomization_fn=randomize)
    start, after = run(wrapped, np.ones((LENGTH, BATCH, 1), np.float32))
    assert (start.obs[:, 0] // 10).tolist() == [0, 1, 2, 3]
    assert (after.obs[-1, :, 0] // 10).tolist() == [0, 1, 2, 3]


def test_settings_go_in_as_keywords() -> None:
    wrap = functools.partial(wrap_for_training, resets="pool", num_starts=2 * BATCH - 1)
    keys = jax.ShapeDtypeStruct((BATCH, 2), jnp.uint32)
    state = jax.eval_shape(wrap(Walk(), episode_length=3, action_repeat=1).reset, keys)
    assert state.info["reset_pool"][0].shape == (BATCH, 2, 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"resets": "never"},
        {"num_starts": 0},
        {"resets": "cached", "keep_final_obs": True},
        {"resets": "pool", "randomization_fn": randomize},
    ],
)
def test_bad_settings_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"has to be|needs"):
        wrap_for_training(Walk(), **settings)
