"""What a task puts around its environment: `wrap_env_fn` and `randomization_fn` are checked too."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from brax.envs.base import Env, State
from brax.envs.wrappers import training
from kit import FrameStack, PPOConfig, Task, examine, wrap_for_evaluation, wrap_for_training
from kit.check import Violation


class Windy(Env):
    """A point that the action and a wind push; `sys` is what Brax lets tasks randomise."""

    observation_size, action_size, backend = 1, 1, "none"

    def __init__(self) -> None:
        self.sys = {"wind": jnp.float32(0.0), "walls": jnp.ones(2, jnp.float32)}

    def reset(self, rng: jax.Array) -> State:
        x = jax.random.uniform(rng, (1,), minval=-0.5, maxval=0.5)
        zero = jnp.zeros((), jnp.float32)
        return State(x, x, zero, zero)

    def step(self, state: State, action: jax.Array) -> State:
        x = state.pipeline_state + 0.05 * (action + self.sys["wind"])
        far = jnp.abs(x[0]) > self.sys["walls"][0]
        return state.replace(
            pipeline_state=x, obs=x, reward=-jnp.abs(x[0]), done=far.astype(jnp.float32)
        )


class Calm(Windy):
    """Reads nothing of `sys`."""

    def step(self, state: State, action: jax.Array) -> State:
        known, self.sys = self.sys, {"wind": jnp.float32(0), "walls": jnp.ones(2)}
        state, self.sys = super().step(state, action), known
        return state


class Still(Windy):
    def __init__(self) -> None: ...

    def step(self, state: State, action: jax.Array) -> State:
        x = state.pipeline_state + 0.05 * action
        return state.replace(pipeline_state=x, obs=x, done=jnp.float32(jnp.abs(x[0]) > 1))


def findings(environment: type[Env], **around: Any) -> list[Violation]:
    task = Task(environment, PPOConfig(episode_length=60), None, **around)  # type: ignore[arg-type]
    report = examine(task, time_limit=500)
    return [v for v in report.violations if v.severity == "error"]


def wind(size: Callable[[jax.Array], jax.Array], axis: Any = 0) -> Callable[..., Any]:
    """A randomization_fn: `size` makes winds of keys."""

    def randomize(sys: Any, rng: jax.Array) -> Any:
        return {**sys, "wind": size(rng)}, {"wind": axis, "walls": None}

    return randomize


def of_each(keys: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jax.random.uniform(key, minval=-0.5, maxval=0.5))(keys)


def test_a_randomization_that_is_right_passes() -> None:
    assert findings(Windy, randomization_fn=wind(of_each)) == []


@pytest.mark.parametrize(
    ("environment", "randomize", "says"),
    [
        (Still, wind(of_each), "Still has no `sys`, which randomization_fn changes"),
        (Calm, wind(of_each), "sys['wind'] differ between environments, and nothing changes"),
        (Windy, wind(lambda keys: jnp.ones(len(keys))), "gives all environments the same system"),
        (Windy, wind(lambda keys: of_each(keys)[0]), "sys['wind'] is (), and for 3 keys"),
        (Windy, wind(lambda keys: of_each(keys)[:, None]), "is (3, 1), and for 3 keys"),
        (Windy, wind(of_each, axis=None), "gives all environments the same system"),
        (Windy, wind(lambda keys: jnp.log(-jnp.abs(of_each(keys)))), "obs, reward: NaN"),
        (Windy, lambda sys, rng: sys, "randomization_fn returns a dict and not a pair"),
        (Windy, lambda sys: (sys, None), "unexpected keyword argument 'rng'"),
        (Windy, lambda sys, rng: ({"wind": of_each(rng)}, 0), "returns sys['wind'] for"),
        (Windy, lambda sys, rng: (sys, {"storm": 0}), "randomization_fn"),
    ],
)
def test_a_randomization_that_is_wrong_is_named(
    environment: type[Env], randomize: Callable[..., Any], says: str
) -> None:
    (violation,) = findings(environment, randomization_fn=randomize)
    assert violation.rule == "randomization"
    assert says in violation.actual


def stacked(env: Env, *args: Any, **kwargs: Any) -> Env:
    return wrap_for_training(FrameStack(env, 2), *args, **kwargs)


@pytest.mark.parametrize("wrap", [wrap_for_training, training.wrap, stacked])
def test_a_wrapping_that_is_right_passes(wrap: Callable[..., Env]) -> None:
    assert findings(Windy, wrap_env_fn=wrap) == []


@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        (lambda env: env, "unexpected keyword argument"),
        (lambda env, **_: env, "when wrapped by wrap_env_fn"),
        (lambda env, **_: training.VmapWrapper(env), "info has no 'truncation'"),
        (
            lambda env, episode_length, **other: wrap_for_training(env, 1000, **other),
            "an episode lasts longer than episode_length=4 steps",
        ),
        (wrap_for_evaluation, "done stays 1 once an episode has ended"),
    ],
)
def test_a_wrapping_that_is_wrong_is_named(wrap: Callable[..., Env], says: str) -> None:
    (violation,) = findings(Windy, wrap_env_fn=wrap)
    assert violation.rule == "wrap-env-fn"
    assert says in violation.actual
