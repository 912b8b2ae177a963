"""Environments of MuJoCo Playground are Brax's to the bit, and Brax's are Playground's."""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import Env
from kit import UsageError, examine, from_playground, to_playground, wrap_for_training
from toys import Toy

# Those of DM control that load without a download and together have every kind of observation.
NAMES = [
    "AcrobotSwingup",
    "BallInCup",
    "CartpoleBalance",
    "CartpoleSwingup",
    "FingerSpin",
    "FishSwim",
    "HopperStand",
    "PendulumSwingup",
    "PointMass",
    "ReacherEasy",
    "SwimmerSwimmer6",
    "WalkerStand",
]

WITH_PLAYGROUND = (
    "needs MuJoCo Playground: uv run --with playground==0.2.0 python -m pytest -m long"
)


@flax.struct.dataclass
class State:
    """As in Playground."""

    data: Any
    obs: Any
    reward: jax.Array
    done: jax.Array
    metrics: dict[str, jax.Array]
    info: dict[str, Any]


class Pushed:
    """Has what Playground's environments have, and no physics: a point that the action pushes."""

    observation_size: Any = {"state": (1,), "privileged_state": (2,)}  # noqa: RUF012  as there
    action_size = 1
    dt = 0.1
    mj_model = None

    def __init__(self) -> None:
        self._mjx_model = {"mass": jnp.float32(2.0)}

    @property
    def mjx_model(self) -> Any:
        return self._mjx_model

    @property
    def unwrapped(self) -> "Pushed":
        return self

    def reset(self, rng: jax.Array) -> State:
        x = jax.random.uniform(rng, (1,))
        zero = jnp.float32(0)
        return State(x, self._observe(x), zero, zero, {"speed": zero}, {"last": jnp.zeros(1)})

    def step(self, state: State, action: jax.Array) -> State:
        speed = action / self._mjx_model["mass"]
        x = state.data + self.dt * speed
        state.metrics["speed"] = speed[0]  # in place, as many of Playground's do
        state.info["last"] = action
        done = jnp.float32(jnp.abs(x[0]) > 1)
        return state.replace(data=x, obs=self._observe(x), reward=-jnp.abs(x[0]), done=done)  # type: ignore[attr-defined]

    def _observe(self, x: jax.Array) -> dict[str, jax.Array]:
        return {"state": x, "privileged_state": jnp.stack([x[0], self._mjx_model["mass"]])}


def assert_same_bits(original: Any, adapted: Env, steps: int) -> None:
    actions = jax.random.uniform(
        jax.random.PRNGKey(1), (steps, original.action_size), minval=-1, maxval=1
    )

    def play(env: Any) -> Any:
        start = env.reset(jax.random.PRNGKey(0))

        def step(state: Any, action: jax.Array) -> Any:
            after = env.step(state, action)
            return after, after

        return start, jax.lax.scan(step, start, actions)[1]

    pairs = zip(
        *(jax.jit(functools.partial(play, env))() for env in (original, adapted)), strict=True
    )
    for was, now in pairs:
        expected = (was.data, was.obs, was.reward, was.done, was.metrics, was.info)
        found = (now.pipeline_state, now.obs, now.reward, now.done, now.metrics, now.info)
        jax.tree.map(np.testing.assert_array_equal, expected, found)


def test_steps_are_the_original() -> None:
    assert_same_bits(Pushed(), from_playground(Pushed()), steps=20)


def test_sizes_and_other_attributes_are_the_original() -> None:
    env = from_playground(Pushed())
    assert (env.observation_size, env.action_size, env.dt) == (Pushed.observation_size, 1, 0.1)
    assert env.mj_model is None
    with pytest.raises(AttributeError, match="gravity"):
        env.gravity  # noqa: B018


def test_a_step_leaves_the_state_before_it_alone() -> None:
    env = from_playground(Pushed())
    before = env.reset(jax.random.PRNGKey(0))
    env.step(before, jnp.ones(1))
    assert before.info["last"] == before.metrics["speed"] == 0


def test_randomisers_of_playground_are_the_randomization_fn() -> None:
    def randomise(model: Any, rng: jax.Array) -> tuple[Any, Any]:
        return {"mass": 1 + jax.random.uniform(rng[0], (4,))}, {"mass": 0}

    env = from_playground(Pushed())
    key = jax.random.PRNGKey(0)
    batch = wrap_for_training(
        env, 10, randomization_fn=lambda model: randomise(model, jnp.stack([key]))
    )
    state = jax.jit(batch.reset)(jax.random.split(key, 4))
    state = jax.jit(batch.step)(state, jnp.ones((4, 1)))
    mass = randomise(None, jnp.stack([key]))[0]["mass"]
    np.testing.assert_array_equal(state.obs["privileged_state"][:, 1], mass)
    np.testing.assert_allclose(state.metrics["speed"], 1 / mass, rtol=1e-6)
    assert env.sys == {"mass": 2}


def test_there_and_back_is_the_environment() -> None:
    assert_same_bits(Pushed(), from_playground(to_playground(from_playground(Pushed()))), steps=5)
    with pytest.raises(UsageError, match="Toy is no environment of MuJoCo Playground"):
        from_playground(Toy())


def test_check_adapts_it_by_itself() -> None:
    report = examine(Pushed)
    assert (report.ok, [v.rule for v in report.violations]) == (
        True,
        ["observation-scale"],
    )  # the mass


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_environments_of_playground(name: str) -> None:
    playground = pytest.importorskip(
        "mujoco_playground",
        reason=WITH_PLAYGROUND,
    )
    env = playground.registry.load(name, config_overrides={"impl": "jax"})
    assert_same_bits(env, from_playground(env), steps=100)


@pytest.mark.long
def test_playground_wraps_and_brax_trains_an_environment_of_ours() -> None:
    wrapper = pytest.importorskip(
        "mujoco_playground",
        reason=WITH_PLAYGROUND,
    ).wrapper
    batch = wrapper.wrap_for_brax_training(to_playground(Toy()), episode_length=5, full_reset=True)
    state = jax.jit(batch.reset)(jax.random.split(jax.random.PRNGKey(0), 3))
    step = jax.jit(batch.step)
    for _ in range(5):
        state = step(state, jnp.zeros((3, Toy().action_size)))
    assert state.done.all()
    assert state.info["truncation"].shape == (3,)
