"""NaN and infinity planted at known places, and found there."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import State
from kit import replay as replaying
from kit import runs
from kit.programs import Programs
from kit.replay import Finding, replay
from kit.task import Task
from PIL import Image
from toys import Toy, toy_task

EPISODE = 10  # steps; an update has 8
NUM_ENVS = 4


def found(finding: Finding | None) -> Finding:
    assert finding is not None
    return finding


def new_run(task: Task, path: Path, *, evaluations: int = 0) -> Path:
    """A run that was stopped before it saved anything, but for so many rows of metrics."""
    run = runs.make_folder(path)
    runs.write_config(run, "task", task)
    steps = task.settings.steps_per_update
    marks = range(0, steps * evaluations, steps)
    runs.append_metrics(run, [{"steps": n, "seed": 0, "eval/episode_reward": 0.0} for n in marks])
    return run


def source_line(finding: Finding) -> str:
    assert finding.origin is not None
    return Path(finding.origin.file).read_text().splitlines()[finding.origin.line - 1]


# ---- planted in step ----------------------------------------------------------------------------


class Given(NamedTuple):
    """What a plant makes a bad state from.

    Attributes:
      after: the state that a good step gives.
      age: steps that this environment has done in all its episodes, () int32.
      t: the same in this episode.
      some: this is one of the environments with the property, () bool.
      v: what a plant has remembered since the step before; 1 at the start of an episode.
      action: (2,) float32.
    """

    after: State
    age: jax.Array
    t: jax.Array
    some: jax.Array
    v: jax.Array
    action: jax.Array

    def ends(self, reward: Any = 0.0, v: Any = 1.0, **others: Any) -> State:
        """The state with `reward` added and `v` remembered."""
        memory = {**self.after.pipeline_state, "v": jnp.float32(v)}
        return self.after.replace(
            pipeline_state=memory, reward=self.after.reward + reward, **others
        )


class Plant(NamedTuple):
    plant: Callable[[Given], State]
    leaf: str
    value: str
    age: int | None
    some: bool


PLANTS: dict[str, Plant] = {}


def plant(
    leaf: str, value: str = "nan", *, age: int | None, some: bool = True
) -> Callable[[Callable[[Given], State]], Callable[[Given], State]]:
    """Says what is to be found: the leaf, its value, the environment's age, and which one."""

    def register(function: Callable[[Given], State]) -> Callable[[Given], State]:
        PLANTS[function.__name__] = Plant(function, leaf, value, age, some)
        return function

    return register


@plant("obs['place'][1]", age=5)
def an_entry_of_the_observation(g: Given) -> State:
    place = g.after.obs["place"]
    bad = jnp.where(g.some & (g.age == 5), jnp.nan, place[1])  # bad
    return g.ends(obs={**g.after.obs, "place": place.at[1].set(bad)})


@plant("obs['speed'][0]", "inf", age=15)
def overflow_in_another_entry(g: Given) -> State:
    speed = jnp.exp(jnp.where(g.some & (g.age == 15), 100.0, g.after.obs["speed"]))  # bad
    return g.ends(obs={**g.after.obs, "speed": speed})


@plant("reward", age=7)
def logarithm_of_a_negative_number(g: Given) -> State:
    y = jnp.where(g.some & (g.age == 7), -1.0, 1.0)
    return g.ends(reward=jnp.log(y))  # bad


@plant("reward", "inf", age=14, some=False)
def division_by_zero(g: Given) -> State:
    return g.ends(reward=1 / (14.0 - g.age))  # bad


@plant("done", age=4)
def done(g: Given) -> State:
    return g.ends(done=jnp.sqrt(jnp.where(g.some & (g.age == 4), -1.0, 0.0)))  # bad


@plant("reward", age=9)
def a_metric_that_the_reward_is_made_of(g: Given) -> State:
    angle = jnp.arccos(jnp.where(g.some & (g.age == 9), 1.001, 0.5))  # bad
    return g.ends(reward=-angle, metrics={**g.after.metrics, "distance": angle})


@plant("pipeline_state['v']", age=12)
def memory_that_surfaces_later(g: Given) -> State:
    v = jnp.where(g.some & (g.t == 2) & (g.age > 10), g.v / (g.t - 2), g.v) * 0  # bad
    return g.ends(v=v, reward=jnp.where(g.t == 5, v, 0.0))


@plant("pipeline_state['v']", age=12)
def memory_that_surfaces_in_a_later_update(g: Given) -> State:
    v = jnp.where(g.some & (g.age == 12), jnp.nan, g.v)  # bad
    return g.ends(v=v, reward=jnp.where(g.t == 10, v, 0.0))


@plant("pipeline_state['v']", "inf", age=4)
def growth(g: Given) -> State:
    v = g.v * jnp.where(g.some, 1e10, 1.0)  # bad
    return g.ends(v=v, reward=jnp.where(g.t == 7, v, 0.0))


@plant("reward", age=None)
def an_action_beyond_a_threshold(g: Given) -> State:
    return g.ends(reward=jnp.arcsin(1.1 * g.action[0]))  # bad


@plant("reward", age=6)
def the_gradient_of_a_root(g: Given) -> State:
    slope = jax.grad(lambda x: jnp.sqrt(x * x))(jnp.where(g.some & (g.age == 6), 0.0, 1.0))  # bad
    return g.ends(reward=slope)


@plant("obs['place'][0]", age=3)
def a_vector_of_no_length(g: Given) -> State:
    vector = g.after.obs["place"] * jnp.where(g.some & (g.age == 3), 0.0, 1.0) + 0.0
    place = vector / jnp.linalg.norm(vector)  # bad
    return g.ends(obs={**g.after.obs, "place": place})


@plant("reward", "inf", age=8)
def a_loop(g: Given) -> State:
    def halve(i: Any, x: jax.Array) -> jax.Array:
        return x / jnp.where(g.some & (g.age == 8) & (i == 3), 0.0, 2.0)  # bad

    return g.ends(reward=jax.lax.fori_loop(0, 6, halve, jnp.float32(1)))


@plant("reward", age=11)
def a_loop_of_unknown_length(g: Given) -> State:
    def shrink(carry: Any) -> Any:
        i, x = carry
        return i + 1, jnp.log(x)  # bad

    count = jnp.where(g.some & (g.age == 11), 4, 0)
    _, x = jax.lax.while_loop(lambda c: c[0] < count, shrink, (jnp.int32(0), jnp.float32(3)))
    return g.ends(reward=x)


@plant("reward", age=13)
def a_branch(g: Given) -> State:
    def risky() -> jax.Array:
        return jnp.sqrt(-g.v)  # bad

    return g.ends(reward=jax.lax.cond(g.some & (g.age == 13), risky, lambda: g.v))


@plant("reward", age=10)
def the_last_step_of_an_episode(g: Given) -> State:
    """The auto-reset puts another observation in place of this one."""
    return g.ends(
        obs={**g.after.obs, "speed": jnp.where(g.some & (g.age == 10), jnp.nan, g.t)[None]},  # bad
        reward=0.0,
    )


PLANTS["the_last_step_of_an_episode"] = PLANTS["the_last_step_of_an_episode"]._replace(
    leaf="obs['speed'][0]"
)


@plant("reward", age=2)
def a_line_after_one_that_is_masked(g: Given) -> State:
    masked = jnp.where(g.after.reward > 0, jnp.log(g.after.reward), 0.0)
    hit = g.some & (g.age == 2)
    return g.ends(reward=masked * 1.0 + jnp.where(hit, jnp.float32(jnp.inf), 1.0) * 0)  # bad


class Minefield(Toy):
    """Treads on the plant that `info["case"]` says, which a test writes into the saved state."""

    preserve_info = ("case", "age", "number")

    def __init__(self) -> None:
        super().__init__(observe=lambda x: {"place": jnp.stack([x, x]) + 3, "speed": x[None]})

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        memory = {**state.pipeline_state, "t": jnp.int32(0), "v": jnp.float32(1)}
        info = {"case": jnp.int32(0), "age": jnp.int32(0), "number": jax.random.uniform(rng)}
        return state.replace(pipeline_state=memory, info={**state.info, **info})

    def step(self, state: State, action: jax.Array) -> State:
        memory, info = state.pipeline_state, state.info
        after = super().step(state, action)
        t, age = memory["t"] + 1, info["age"] + 1
        after = after.replace(
            pipeline_state={**after.pipeline_state, "t": t}, info={**info, "age": age}
        )
        given = Given(after, age, t, info["number"] > 0.5, memory["v"], action)
        plants = [lambda g: g.ends(), *(x.plant for x in PLANTS.values())]
        return jax.lax.switch(info["case"], plants, given)


MINEFIELD = dataclasses.replace(
    toy_task(episode_length=EPISODE, num_evals=2), environment=Minefield
)


@pytest.fixture(scope="module")
def programs() -> Callable[[Task], Programs]:
    """One compilation for all plants."""
    return functools.cache(Programs)


@pytest.mark.parametrize("name", PLANTS)
def test_a_plant_is_found(
    name: str, programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "Programs", programs)
    task, expected = MINEFIELD, PLANTS[name]
    run = new_run(task, tmp_path / "run", evaluations=1)
    state = jax.jit(task.make_ppo().init)(np.uint32(0))
    info = state.env_state.info
    case = jnp.full_like(info["case"], 1 + list(PLANTS).index(name))
    runs.save_resume(
        run, state.replace(env_state=state.env_state.replace(info={**info, "case": case}))
    )

    finding = found(replay(run, task))
    assert (finding.leaf, finding.value) == (expected.leaf, expected.value)
    assert "# bad" in source_line(finding)
    assert name in str(finding.origin and finding.origin.stack)
    with np.load(run / "replay" / "before.npz") as before:
        before = dict(before)
    with np.load(run / "replay" / "after.npz") as after:
        assert not np.isfinite(after[expected.leaf.split("[0]")[0].split("[1]")[0]]).all()
    if expected.age is not None:
        assert finding.step == (expected.age - 1) % EPISODE + 1
        assert finding.steps == expected.age * NUM_ENVS
        some = np.asarray(info["number"]) > 0.5
        assert some.argmax() > 0
        assert finding.environment == (some.argmax() if expected.some else 0)
        assert before["info['age']"] == expected.age - 1
    else:
        assert abs(1.1 * before["action"][0]) > 1
    assert (
        f"at step {finding.step} of an episode of environment {finding.environment}" in finding.text
    )
    with Image.open(run / "replay" / "replay.gif") as gif:
        assert gif.size == (8, 8)
