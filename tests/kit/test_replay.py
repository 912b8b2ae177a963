"""NaN and infinity planted at known places, and found there."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import kit as kit_package
import numpy as np
import pytest
from brax.envs.base import Env, State, Wrapper
from flax import linen as nn
from kit import cli
from kit.env.wrappers import wrap_for_training
from kit.errors import TrainingDivergedError, UsageError
from kit.ppo.task import Task
from kit.run import folder
from kit.run.cache import use_compilation_cache
from kit.run.programs import Programs
from kit.run.train import train
from kit.tools import replay as replaying
from kit.tools.replay import Finding, replay
from PIL import Image
from rich.console import Console
from toys import SPACES, Toy, toy_task

EPISODE = 10  # steps; an update has 8
NUM_ENVS = 4


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Many of these tests compile the same programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        use_compilation_cache()
        yield
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR"))


@pytest.fixture(autouse=True)
def _memory_maps() -> Iterator[None]:
    """Each of these tests compiles a thousand operations; a process may have 65,530 memory maps."""
    yield
    jax.clear_caches()


def found(finding: Finding | None) -> Finding:
    assert finding is not None
    return finding


def new_run(task: Task, path: Path, *, evaluations: int = 0) -> Path:
    """A run that was stopped before it saved anything, but for so many rows of metrics."""
    run = folder.make_folder(path)
    folder.write_config(run, "task", task, task.make_ppo())
    steps = task.settings.steps_per_update
    marks = range(0, steps * evaluations, steps)
    folder.append_metrics(run, [{"steps": n, "seed": 0, "eval/episode_reward": 0.0} for n in marks])
    return run


def source_line(finding: Finding) -> str:
    assert finding.line is not None
    return Path(finding.line.file).read_text().splitlines()[finding.line.line - 1]


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


@plant("obs['speed'][0]", age=10)
def the_last_step_of_an_episode(g: Given) -> State:
    """The auto-reset puts another observation in place of this one."""
    return g.ends(
        obs={**g.after.obs, "speed": jnp.where(g.some & (g.age == 10), jnp.nan, g.t)[None]},  # bad
    )


@plant("reward", age=2)
def a_line_after_one_that_is_masked(g: Given) -> State:
    masked = jnp.where(g.after.reward > 0, jnp.log(g.after.reward), 0.0)
    hit = g.some & (g.age == 2)
    return g.ends(reward=masked * 1.0 + jnp.where(hit, jnp.float32(jnp.inf), 1.0) * 0)  # bad


QUICK = {"the_last_step_of_an_episode", "a_line_after_one_that_is_masked"}


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


@pytest.mark.long
@pytest.mark.xdist_group("plants")
@pytest.mark.parametrize(
    "name",
    [x if x in QUICK else pytest.param(x, marks=pytest.mark.long) for x in PLANTS],
)
def test_a_plant_is_found(
    name: str, programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "Programs", programs)
    task, expected = MINEFIELD, PLANTS[name]
    run = new_run(task, tmp_path / "run", evaluations=1)
    state = jax.jit(task.make_ppo().init)(np.uint32(0))
    info = state.env_state.info
    case = jnp.full_like(info["case"], 1 + list(PLANTS).index(name))
    state = state.replace(env_state=state.env_state.replace(info={**info, "case": case}))
    folder.save_resume(run, folder.Saved(state))

    finding = found(replay(run, task))
    assert (finding.leaf, finding.value) == (expected.leaf, expected.value)
    assert "# bad" in source_line(finding)
    assert finding.line is not None
    assert name in finding.line.function
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


# ---- other runs ---------------------------------------------------------------------------------


class Planted(Toy):
    """Counts the steps of an episode; `bad` says what to add to the reward."""

    def __init__(self, bad: Callable[[State, jax.Array], jax.Array], **toy: Any) -> None:
        super().__init__(**toy)
        self._bad = bad

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        first = state.pipeline_state["x"]
        memory = {**state.pipeline_state, "t": jnp.float32(0), "first": first, "v": first * 0}
        return state.replace(pipeline_state=memory)

    def step(self, state: State, action: jax.Array) -> State:
        after = super().step(state, action)
        t = state.pipeline_state["t"] + 1
        after = after.replace(pipeline_state={**after.pipeline_state, "t": t})
        return after.replace(reward=after.reward + self._bad(after, action))


def planted(bad: Callable[[State, jax.Array], jax.Array], **settings: Any) -> Task:
    task = toy_task(**{"episode_length": EPISODE, "num_evals": 2, **settings})
    return dataclasses.replace(task, environment=lambda: Planted(bad))


def root_of(state: State, where: jax.Array) -> jax.Array:
    del state
    return jnp.sqrt(jnp.where(where, -1.0, 0.0))  # bad


def at(step: int) -> Callable[[State, jax.Array], jax.Array]:
    return lambda state, action: root_of(state, state.pipeline_state["t"] == step)


@pytest.mark.long
@pytest.mark.parametrize("step", [3, 6])
def test_a_single_step_of_a_repeated_action(step: int, tmp_path: Path) -> None:
    task = planted(at(step), action_repeat=2)
    finding = found(replay(new_run(task, tmp_path / "run", evaluations=1), task))
    assert (finding.leaf, finding.step, finding.environment) == ("reward", step, 0)
    assert finding.steps == (step + 1) // 2 * 2 * NUM_ENVS
    assert "# bad" in source_line(finding)


@pytest.mark.long
def test_one_seed_of_two(tmp_path: Path) -> None:
    init = jax.jit(planted(at(99)).make_ppo().init)
    starts = [init(np.uint32(seed)).env_state for seed in (3, 4)]
    firsts = np.array([x.pipeline_state["first"] for x in starts])
    largest = firsts[1].max()
    assert firsts[0].max() < largest, "choose another seed"

    def bad(state: State, action: jax.Array) -> jax.Array:
        is_it = jnp.abs(state.pipeline_state["first"] - largest) < 1e-6
        return root_of(state, is_it & (state.pipeline_state["t"] == 4))

    task = planted(bad, seed=3, num_seeds=2)
    finding = found(replay(new_run(task, tmp_path / "run", evaluations=1), task))
    assert (finding.seed, finding.environment) == (4, firsts[1].argmax())
    assert (finding.leaf, finding.step) == ("reward", 4)
    assert "(seed 4)" in finding.text


@pytest.mark.long
def test_discrete_actions(tmp_path: Path) -> None:
    """The second action alone does harm."""
    space = SPACES["discrete"]
    harm = lambda state, action: root_of(state, (action == 1) & (state.pipeline_state["t"] > 2))  # noqa: E731
    task = dataclasses.replace(
        toy_task(space, episode_length=EPISODE, num_evals=2),
        # A typed key, which files can't hold as it is.
        environment=lambda: Planted(harm, action_space=space, key=jax.random.wrap_key_data),
    )
    run = new_run(task, tmp_path / "run", evaluations=1)
    finding = found(replay(run, task))
    assert (finding.leaf, finding.value) == ("reward", "nan")
    with np.load(run / "replay" / "before.npz") as before:
        assert before["action"] == 1
        assert before["pipeline_state['t']"] + 1 == finding.step
        assert finding.step == 3


class BadStart(Toy):
    """Some first states are bad: of the training's first episodes or of later ones."""

    limit = 0.0

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        x = state.pipeline_state["x"]
        speed = jnp.sqrt(self.limit - x)  # bad
        return state.replace(obs=jnp.stack([x, speed]))


@pytest.mark.long
@pytest.mark.parametrize("later", [False, True])
def test_reset(later: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = dataclasses.replace(
        toy_task(episode_length=4, num_evals=2, bootstrap_on_timeout=False), environment=BadStart
    )
    monkeypatch.setattr(BadStart, "limit", 2.0)
    ppo = task.make_ppo()
    state = jax.jit(ppo.init)(np.uint32(0))
    first = np.asarray(state.env_state.pipeline_state["x"])
    # The first states of the second episodes.
    keys = jax.vmap(jax.random.split)(state.env_state.info["reset_key"])[:, 0]
    second = np.asarray(jax.vmap(Toy().reset)(keys).pipeline_state["x"])
    limit = (np.sort(second)[-2:].mean() if later else np.sort(first)[-2:].mean()).item()
    if later and limit <= first.max():
        limit = (first.max() + second.max()).item() / 2
        assert second.max() > limit > first.max(), "choose another seed"
    monkeypatch.setattr(BadStart, "limit", limit)
    finding = found(replay(new_run(task, tmp_path / "run", evaluations=1), task))
    assert (finding.leaf, finding.value, finding.step) == ("obs[1]", "nan", 0)
    assert finding.environment == ((second if later else first) > limit).argmax()
    assert finding.steps == (4 * NUM_ENVS if later else 0)
    assert "# bad" in source_line(finding)


@pytest.mark.long
def test_an_evaluation_alone(tmp_path: Path) -> None:
    """Only the most likely actions do harm, or the number of environments tells an evaluation."""
    task = planted(at(99), num_eval_envs=64)
    start = jax.jit(task.make_ppo().init)(np.uint32(0))
    limit = float(np.max(start.env_state.pipeline_state["first"]))

    def bad(state: State, action: jax.Array) -> jax.Array:
        return root_of(
            state, (state.pipeline_state["first"] > limit) & (state.pipeline_state["t"] == 7)
        )

    task = dataclasses.replace(task, environment=lambda: Planted(bad))
    finding = found(replay(new_run(task, tmp_path / "run"), task))
    assert (finding.leaf, finding.step, finding.steps) == ("reward", 7, 0)
    assert "in the evaluation" in finding.text
    assert "# bad" in source_line(finding)


class Windy(Toy):
    """A wind that only some of the randomised systems have."""

    def step(self, state: State, action: jax.Array) -> State:
        after = super().step(state, action)
        return after.replace(reward=jnp.sqrt(0.5 - self.sys["wind"]))  # bad


def winds(system: Any, rng: jax.Array) -> tuple[Any, Any]:
    return {"wind": jax.vmap(jax.random.uniform)(rng)}, {"wind": 0}


@pytest.mark.long
def test_a_randomised_system(tmp_path: Path) -> None:
    task = dataclasses.replace(toy_task(num_evals=2), environment=Windy, randomization_fn=winds)
    state = jax.jit(task.make_ppo().init)(np.uint32(0))
    wind = np.asarray(state.env_state.pipeline_state["wind"])
    assert wind.min() < 0.5 < wind.max()
    finding = found(replay(new_run(task, tmp_path / "run", evaluations=1), task))
    assert (finding.leaf, finding.step) == ("reward", 1)
    assert finding.environment == (wind > 0.5).argmax()
    assert "# bad" in source_line(finding)


class Harder(Toy):
    """A curriculum that is too hard from a quarter of the training on."""

    progress: Any = 1.0

    def step(self, state: State, action: jax.Array) -> State:
        after = super().step(state, action)
        return after.replace(reward=jnp.sqrt(jnp.abs(self.progress - 0.5) - 0.25))  # bad


@pytest.mark.long
def test_a_curriculum(tmp_path: Path) -> None:
    # Five updates, at progress 0, 0.25, 0.5, ...: 0.5 is bad.
    task = dataclasses.replace(toy_task(num_evals=2, num_timesteps=160), environment=Harder)
    settings = task.settings
    assert settings.num_updates == 5
    finding = found(replay(new_run(task, tmp_path / "run", evaluations=1), task))
    assert (finding.leaf, finding.environment) == ("reward", 0)
    assert finding.steps == 2 * settings.steps_per_update + settings.num_envs
    assert "# bad" in source_line(finding)


class Relative(Wrapper):
    """A wrapper of the user's around one environment."""

    def step(self, state: State, action: jax.Array) -> State:
        after = self.env.step(state, action)
        return after.replace(obs=after.obs / (5.0 - after.pipeline_state["t"]))  # bad


@pytest.mark.long
def test_a_wrapper_of_the_user_s(tmp_path: Path) -> None:
    def wrap(env: Env, **options: Any) -> Env:
        return wrap_for_training(Relative(env), **options)

    task = dataclasses.replace(planted(at(99)), wrap_env_fn=wrap)
    finding = found(replay(new_run(task, tmp_path / "run", evaluations=1), task))
    assert (finding.leaf, finding.step, finding.environment) == ("obs[0]", 5, 0)
    assert "# bad" in source_line(finding)


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, observation: Any, normalized: Any) -> jax.Array:
        return nn.Dense(4)(jnp.sqrt(0.95 - jnp.abs(observation)))  # bad


@pytest.mark.long
def test_the_networks(tmp_path: Path) -> None:
    task = toy_task(encoder=Encoder(), observe=lambda x: jnp.stack([x * 0.9, x]), num_evals=2)
    finding = found(replay(new_run(task, tmp_path / "run", evaluations=1), task))
    assert (finding.leaf, finding.value) == ("action[0]", "nan")
    assert "The policy gave" in finding.text
    assert "# bad" in source_line(finding)


@pytest.mark.long
def test_the_learning(tmp_path: Path) -> None:
    task = toy_task(learning_rate=1e30, max_grad_norm=None, num_evals=2, bootstrap_on_timeout=False)
    run = new_run(task, tmp_path / "run", evaluations=1)
    (run / "replay").write_text("in the way")
    with pytest.raises(UsageError, match="replay is no folder"):
        replay(run, task)
    (run / "replay").unlink()
    finding = found(replay(run, task))
    assert finding.leaf == "training/total_loss"
    assert finding.environment is None
    assert finding.steps == task.settings.steps_per_update
    assert "It began in minibatch 2 of pass 1." in finding.text


@pytest.mark.long
def test_a_state_that_was_bad_before_it_was_saved(tmp_path: Path) -> None:
    """The reward shows at step 9, in the second update, what became bad at step 2."""

    class Slow(Planted):
        def step(self, state: State, action: jax.Array) -> State:
            after = super().step(state, action)
            memory = after.pipeline_state
            v = jnp.where(memory["t"] == 2, jnp.inf, memory["v"])
            reward = jnp.where(memory["t"] == 9, v, 0.0)
            return after.replace(pipeline_state={**memory, "v": v}, reward=reward)

    task = dataclasses.replace(planted(at(99)), environment=lambda: Slow(at(99)))
    run = new_run(task, tmp_path / "run", evaluations=2)
    ppo = task.make_ppo()
    state, _ = jax.jit(ppo.update)(jax.jit(ppo.init)(np.uint32(0)))
    assert not np.isfinite(state.env_state.pipeline_state["v"]).any()
    folder.save_resume(run, folder.Saved(state))
    finding = found(replay(run, task))
    assert (finding.leaf, finding.value) == ("pipeline_state['v']", "inf")
    assert (finding.environment, finding.step, finding.line) == (0, None, None)
    assert finding.steps == 32
    assert "reward became inf at step 9" in finding.text
    assert "was inf already when the run was saved last" in finding.text
    assert "--num-evals 2" in finding.text


@pytest.mark.long
def test_a_first_state_that_shows_in_a_later_update(tmp_path: Path) -> None:
    class Late(Planted):
        def reset(self, rng: jax.Array) -> State:
            state = super().reset(rng)
            v = jnp.log(state.pipeline_state["v"] - 1)  # bad
            return state.replace(pipeline_state={**state.pipeline_state, "v": v})

        def step(self, state: State, action: jax.Array) -> State:
            after = super().step(state, action)
            memory = after.pipeline_state
            return after.replace(reward=jnp.where(memory["t"] == 9, memory["v"], 0.0))

    task = dataclasses.replace(planted(at(99)), environment=lambda: Late(at(99)))
    finding = found(replay(new_run(task, tmp_path / "run", evaluations=1), task))
    assert (finding.leaf, finding.value, finding.steps) == ("pipeline_state['v']", "nan", 0)
    assert (finding.environment, finding.step) == (0, 0)
    assert "reward became nan at step 9" in finding.text
    assert "# bad" in source_line(finding)


class Old(Planted):
    """Bad at the age of 15 steps, which no environment of an evaluation reaches."""

    preserve_info = ("age",)

    def reset(self, rng: jax.Array) -> State:
        state = super().reset(rng)
        return state.replace(info={"age": jnp.int32(0)})

    def step(self, state: State, action: jax.Array) -> State:
        after = super().step(state, action)
        age = state.info["age"] + 1
        bad = root_of(after, age == 15)
        return after.replace(reward=after.reward + bad, info={**state.info, "age": age})


@pytest.mark.slow
def test_from_training_to_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = dataclasses.replace(planted(at(99), num_seeds=2), environment=lambda: Old(at(99)))
    run = tmp_path / "run"
    with pytest.raises(TrainingDivergedError, match="replay"):
        train(task, run_dir=run, console=Console(quiet=True))
    config = types.ModuleType("config")
    config.task = task  # type: ignore[attr-defined]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main("toy", config, ["replay", str(run)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "reward became nan at step 5 of an episode of environment 0 (seed 0)" in said
    assert "3 more of the environments" in said
    assert f"{Path(__file__).name}:" in said
    assert {path: path.read_bytes() for path in before} == before
    left = {path.name for path in run.rglob("*") if path.is_file()} - {p.name for p in before}
    assert left == {"before.npz", "after.npz", "replay.gif"}


ON_ALL_CORES = """
import sys, types
import conftest
from kit import cli
from test_replay import at, planted

config = types.ModuleType("config")
config.task = planted(at(4), num_seeds=2)
cli.main("toy", config, sys.argv[1:])
"""


@pytest.mark.long
@pytest.mark.skipif(os.cpu_count() == 1, reason="a core is a device")
def test_the_devices_are_those_of_the_training(tmp_path: Path) -> None:
    kit = Path(kit_package.__file__ or "").parents[1]
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    path = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(kit)])}

    def command(*args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", ON_ALL_CORES, *args],
            env={**os.environ, **flags, **path},
            capture_output=True,
            text=True,
        )

    run = tmp_path / "run"
    assert command("train", "--run-dir", str(run)).returncode == 1
    assert json.loads((run / "config.json").read_text())["num_devices"] == 2
    replayed = command("replay", str(run))
    assert replayed.returncode == 0, replayed.stderr
    assert "at step 4 of an episode of environment 0" in replayed.stdout
    assert "It ran on" not in replayed.stdout


@pytest.mark.slow
@pytest.mark.xdist_group("plants")
@pytest.mark.parametrize("changed", [False, True])
def test_a_run_without_anything_bad(
    changed: bool,
    programs: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(replaying, "Programs", programs)
    task = MINEFIELD  # which has no mine before a test lays one
    run = new_run(task, tmp_path / "run")
    if changed:
        saved = json.loads((run / "config.json").read_text())
        changes = {"device": "abacus", "num_devices": 64}
        (run / "config.json").write_text(json.dumps({**saved, **changes}))
    config = types.ModuleType("config")
    config.task = task  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as ended:
        cli.main("toy", config, ["replay", str(run)])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "Everything stays finite up to step 96" in said
    assert ("device was abacus" in said) == ("because of what has changed" in said) == changed
    assert ("It ran on 64 devices and runs on 1 now." in said) == changed
    assert not (run / "replay").exists()


def test_no_write_lands_outside(tmp_path: Path) -> None:
    task = planted(at(1))
    run = new_run(task, tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (run / "replay").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link"):
        replay(run, task)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.long
def test_a_bad_start_after_which_all_is_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Discrete actions are no NaN even where the observation is one."""
    space = SPACES["discrete"]
    task = dataclasses.replace(
        toy_task(space, num_evals=2, bootstrap_on_timeout=False),
        environment=lambda: BadStart(action_space=space),
    )
    monkeypatch.setattr(BadStart, "limit", -2.0)
    finding = found(replay(new_run(task, tmp_path / "run", evaluations=1), task))
    assert (finding.leaf, finding.value, finding.step) == ("obs[1]", "nan", 0)
    assert (finding.environment, finding.steps) == (0, 0)
    assert "# bad" in source_line(finding)
    assert finding.text.count("became") == 1
