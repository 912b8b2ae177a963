"""`check` finds every planted defect by the right rule, and passes every correct environment."""

import functools
import io
import json
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import table
from bases import BASES, Base, Maze, Picture, Point, Pole, Sensed
from brax.envs.base import Env, State
from checking import check, check_env
from correct import CORRECT, FOREIGN
from defects import DEFECTS, Defect, edited, timed
from flax import linen as nn
from kit.check import RULES, Report, examine, format_report
from kit.check.rollout import Rollout
from kit.env.actions import Continuous, Discrete, MultiDiscrete
from kit.errors import UsageError
from kit.ppo.networks import make_network_factory
from rich.console import Console

LENGTH = 60
SEVERITIES = {rule.id: rule.severity for rule in RULES}
RUN = {rule.id for rule in RULES if Rollout in rule.stages}

# Brax's physics take long to compile: most of it stays with the long tests.
QUICK = {
    "gymnax CartPole-v1",
    "gymnax Breakout-MinAtar",
    "gymnax Pendulum-v1",
    "gymnax Catch-bsuite",
    "gymnax FourRooms-misc",
}


# Textbook tasks whose constructs other environments have too.
BREADTH = {"Pendulum", "MountainCar", "Acrobot", "Snake", "TicTacToe", "ContextualBandit"}
BREADTH |= {"FixedStart", "Timed"}  # those based on them stay
MANY = 3  # defects of one rule for which episodes are run


def marks_of(defect: Defect) -> list[Any]:
    """In the short tests are two defects of each rule, or one for which episodes are run."""
    place = [d for d in DEFECTS if d.rule == defect.rule].index(defect)
    takes_seconds = defect.rule in RUN
    if takes_seconds and place >= MANY:
        return [pytest.mark.long]
    if defect.rule == "no-tracer-leak":  # JAX visits all objects to say who holds a value
        return [pytest.mark.slow]
    return [pytest.mark.slow] if place >= (1 if takes_seconds else 2) else []


def planted() -> list[Any]:
    """Each defect in each of its bases; those behind the first are long."""
    return [
        pytest.param(
            defect,
            base,
            id=f"{defect.rule}-{defect.title}-{base.__name__}".replace(" ", "_"),
            marks=[pytest.mark.long] if i else marks_of(defect),
        )
        for defect in DEFECTS
        for i, base in enumerate(defect.bases)
    ]


@pytest.mark.parametrize(("defect", "base"), planted())
def test_defect_is_caught(defect: Defect, base: type[Base]) -> None:
    report = check(defect.plant(base)(), episode_length=LENGTH, time_limit=500)
    told = "\n".join(map(str, report.violations))
    found = [v for v in report.violations if v.rule == defect.rule]
    assert found, told
    assert any(defect.names in v.actual for v in found), told
    assert all(v.severity == SEVERITIES[v.rule] and v.expected and v.fix for v in found)
    # The cause alone, and not what follows from it.
    assert {v.rule for v in report.violations if v.severity == "error"} <= {defect.rule}, told
    assert not report.unchecked
    if base is defect.bases[0]:  # docs/check.md quotes it; make_table.py writes the page
        _, quoted = table.rows()[table.key_of(defect)]
        said = table.what_check_says(report.violations, defect)
        assert table.without_numbers(quoted) == table.without_numbers(said)


def test_every_rule_has_two_defects() -> None:
    count = Counter(defect.rule for defect in DEFECTS)
    bases = {rule: {b for d in DEFECTS if d.rule == rule for b in d.bases} for rule in count}
    for rule in RULES:
        if rule.id in ("check-finished", "is-made", "wrap-env-fn", "randomization"):
            continue  # tested in processes of their own, test_mistakes.py and test_wrapping.py
        if rule.severity == "error":
            assert count[rule.id] >= 2, rule.id
            assert len(bases[rule.id]) >= 2, rule.id
        else:
            assert count[rule.id] >= 1, rule.id


def passes(env: Env, **settings: Any) -> None:
    report = check(env, time_limit=500, **settings)
    errors = [str(v) for v in report.violations if v.severity == "error"]
    assert not errors, "\n".join(errors)
    assert not report.unchecked


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] if name in BREADTH else [])
        for name, make in CORRECT.items()
        if make not in BASES  # which the test below checks
    ],
)
def test_correct_environment_passes(name: str) -> None:
    passes(CORRECT[name](), episode_length=LENGTH)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.long]) for n in FOREIGN]
)
def test_foreign_environment_passes(name: str) -> None:
    passes(FOREIGN[name](), episode_length=200)


@pytest.mark.parametrize("base", BASES)
def test_bases_have_no_warnings(base: type[Base]) -> None:
    """Otherwise the defects planted in them prove little."""
    assert check_env(base(), episode_length=LENGTH) == []


def test_defects_do_not_hide_each_other() -> None:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        self.count = getattr(self, "count", 0) + 1
        return s.replace(
            reward=s.reward[None],
            obs=s.obs.at[0].set(jnp.where(s.obs[0] > 0.5, jnp.nan, s.obs[0])),
            metrics={**s.metrics, "late": s.obs[0]},
            info={"wind": s.info["wind"]},
        )

    report = check(edited(Point, step=step, backend=3, count=0)(), episode_length=LENGTH)
    assert {v.rule for v in report.violations if v.severity == "error"} == {
        "backend",
        "reward-scalar",
        "state-structure",
        "wrapper-keys",
        "no-self-write",
    }
    assert "finite" in report.waiting  # episodes are run once these are fixed


def test_exceptions_carry_the_users_own_line() -> None:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(reward=helper(s.reward))

    def helper(x: jax.Array) -> float:
        return float(x)

    line = helper.__code__.co_firstlineno + 1
    (violation,) = check_env(edited(Pole, step=step)())
    assert violation.rule == "step-runs"
    assert violation.actual.startswith(f"test_check.py:{line} raises ConcretizationTypeError")
    assert violation.fix.startswith("jnp.float32(x)")


def test_where_no_line_is_at_fault_the_class_is_named() -> None:
    class NoKey(Pole):
        def reset(self) -> State:  # type: ignore[override]
            return super().reset(jax.random.PRNGKey(0))

    (violation,) = check_env(NoKey())
    assert violation.rule == "reset-runs"
    assert violation.actual.startswith("NoKey raises TypeError")
    assert "positional argument" in violation.actual


@pytest.mark.parametrize("env", [object(), None, 3, lambda: None, lambda: 1 / 0])
def test_what_is_not_an_environment_is_reported(env: Any) -> None:
    report = examine(env, time_limit=30)
    assert not report.ok
    assert report.violations


def test_an_exit_in_step_is_reported() -> None:
    env = edited(Maze, step=lambda self, s, g, a: sys.exit("enough"))()
    assert [v.rule for v in check_env(env)] == ["step-runs"]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise Unprintable

    __repr__ = __str__


def test_an_exception_without_a_message_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise Unprintable

    (violation,) = check_env(edited(Maze, step=fail)(), episode_length=LENGTH)
    assert violation.rule == "step-runs"
    assert "Unprintable" in violation.actual
    monkeypatch.setattr("kit.check.engine.roll_out", fail)
    report = check(Maze(), episode_length=LENGTH)
    assert [v.rule for v in report.violations] == ["runs-compiled"]
    assert "finite" in report.waiting
    assert not report.ok


def test_a_rule_that_fails_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("oh")

    broken = [replace(r, look=fail) if r.id == "reward-scalar" else r for r in RULES]
    monkeypatch.setattr("kit.check.engine.RULES", broken)
    report = check(Maze(), episode_length=LENGTH)
    assert not report.violations
    assert not report.ok
    assert report.unchecked["reward-scalar"] == "could not be judged: ZeroDivisionError oh"
    assert "survives-wrappers" in report.unchecked  # it needs the other


def test_one_error_is_reported_once() -> None:
    """What only follows from it is not, and the rules that wait for it take one line."""
    env = edited(Point, step=lambda self, s, g, a: s.replace(obs=s.obs.astype(jnp.int32)))()
    report = check(env, episode_length=LENGTH)
    assert [v.rule for v in report.violations] == ["observation-type"]
    assert report.unchecked == {}
    assert "survives-wrappers" in report.waiting
    assert printed(report).count("survives-wrappers") == 1
    assert len(printed(report).splitlines()) < len(RULES) + 10


def test_long_lists_are_cut() -> None:
    """A physics engine's state has 150 leaves."""

    def many(self: Any, s: State, *_: Any) -> State:
        noise = {f"leaf{i}": jnp.float32(np.random.rand()) for i in range(150)}
        return s.replace(pipeline_state=noise)

    violation, _ = check_env(edited(Point, reset=many, step=many)(), episode_length=LENGTH)
    assert violation.rule == "host-randomness"
    assert "and 146 more" in violation.actual
    assert len(violation.actual) < 300


def test_an_end_that_was_not_seen_is_not_ticked() -> None:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(done=jnp.where(s.reward > 9, s.reward, 0.0).astype(jnp.float32))

    report = check(edited(Point, step=step)(), episode_length=LENGTH)
    assert report.ok
    assert list(report.unseen) == ["done-binary"]
    assert "?  done-binary" in printed(report)
    assert [v.rule for v in report.violations] == ["episode-ends"]


def test_the_range_of_done_is_traced() -> None:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        return s.replace(done=2.0 * (s.reward > 9).astype(jnp.float32))

    env = edited(Point, step=step)()
    assert "done-binary" in [v.rule for v in check_env(env, episode_length=LENGTH)]
    assert check(Maze(), episode_length=2).unseen == {}  # its goal is not reached in two steps


def test_episodes_are_as_long_as_in_training() -> None:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        late = s.pipeline_state["t"] > 300
        return s.replace(reward=jnp.where(late, jnp.nan, s.reward))

    env = edited(timed(Point), step=step)()
    assert check_env(env, episode_length=100) == []
    assert [v.rule for v in check_env(env, episode_length=500)] == ["finite"]


def test_actions_are_repeated_as_in_training() -> None:
    """The speed overflows only if one random action is held for many steps."""

    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        was, count = given.info["was"], given.info["count"]
        count = jnp.where(action[0] == was, count + 1, 0.0)
        many = (count >= 3) & (jnp.abs(action[0]) < 0.99) & (action[0] != 0)
        reward = jnp.where(many, jnp.inf, s.reward)
        return s.replace(info={**s.info, "was": action[0], "count": count}, reward=reward)

    def reset(self: Any, s: State, rng: jax.Array) -> State:
        return s.replace(info={**s.info, "was": jnp.zeros(()), "count": jnp.zeros(())})

    env = edited(Point, reset=reset, step=step)()
    assert "finite" not in [v.rule for v in check_env(env, episode_length=LENGTH)]
    assert "finite" in [v.rule for v in check_env(env, episode_length=LENGTH, action_repeat=4)]


def test_action_spaces() -> None:
    assert check_env(edited(Maze, action_space=Discrete(4))(), episode_length=LENGTH) == []
    (violation,) = check_env(edited(Maze, action_space=Continuous(4))(), episode_length=LENGTH)
    assert violation.rule == "step-runs"

    class Two(Maze):
        """Two moves at once."""

        action_size = 2
        action_space = MultiDiscrete((4, 3))

        def step(self, state: State, action: jax.Array) -> State:
            first = super().step(state, action[0])
            return super().step(first, action[1] + 1)

    assert check_env(Two(), episode_length=LENGTH) == []
    deaf = edited(Two, step=None)
    deaf.step = lambda self, s, a: Two.step(self, s, a.at[1].min(1))
    (violation,) = check_env(deaf(), episode_length=LENGTH)
    assert violation.rule == "action-matters"
    assert "action[1]: choice 2 does the same as 1" in violation.actual
    (violation,) = check_env(edited(Two, action_size=3)(), episode_length=LENGTH)
    assert violation.rule == "action-size"


def test_an_image_may_have_pixels_that_never_change_but_no_dead_channel() -> None:
    def sprites(dead: int | None) -> type[Base]:
        def draw(self: Any, s: State, *_: Any) -> State:
            ball = (jnp.arange(100).reshape(10, 10) == jnp.int32(5 * s.obs[0] + 50)) * 1.0
            image = jnp.stack([ball, 1 - ball, ball.T, jnp.zeros((10, 10))], -1)
            image = image[..., :3] if dead is None else image
            return s.replace(obs=image.reshape(-1))

        class Sprites(Point):
            observation_size = 300 if dead is None else 400

            def reset(self, rng: jax.Array) -> State:
                s = super().reset(rng)
                return draw(self, s).replace(pipeline_state=s.obs)

            def step(self, given: State, action: jax.Array) -> State:
                s = super().step(given.replace(obs=given.pipeline_state), action)
                return draw(self, s).replace(pipeline_state=s.obs)

        return Sprites

    assert check_env(sprites(None)(), episode_length=LENGTH) == []
    (violation,) = check_env(sprites(3)(), episode_length=LENGTH)
    assert violation.rule == "observation-scale"
    assert "channel 3 of 4 never changes" in violation.actual


def test_running_sums_are_found_however_they_are_written() -> None:
    """And the metrics beside them, which are kept in the same dict, are left alone."""

    def loop(was: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda i, total: total + jnp.abs(x[i]), was)

    def sums(s: State, given: State, action: jax.Array) -> dict[str, jax.Array]:
        was, x = given.info["sums"], s.obs
        hit = x[0] > 5.0  # never
        both = jnp.stack([was["both"][0] + 1.0, was["both"][1] + x[1]])
        return {
            "branch": jax.lax.cond(action[0] > 0, lambda t: t + 1.0, lambda t: t, was["branch"]),
            "loop": loop(was["loop"], x),
            "restarted": was["restarted"] * (1 - given.done) + x[0],
            "emptied": jnp.where(given.done > 0, 0.0, was["emptied"]) + x[0],
            "hits": was["hits"] + hit,
            "both": both,
        }

    def reset(self: Any, s: State, rng: jax.Array) -> State:
        names = ("branch", "loop", "restarted", "emptied", "hits")
        kept = {**dict.fromkeys(names, jnp.zeros(())), "both": jnp.zeros(2)}
        metrics = {**s.metrics, **dict.fromkeys([*names, "first", "second"], jnp.zeros(()))}
        return s.replace(info={**s.info, "sums": kept}, metrics=metrics)

    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        kept = sums(s, given, action)
        own = {name: x for name, x in kept.items() if name != "both"}
        own |= {"first": kept["both"][0] / 100, "second": kept["both"][1]}
        return s.replace(info={**s.info, "sums": kept}, metrics={**s.metrics, **own})

    found = check_env(edited(Point, reset=reset, step=step)(), episode_length=LENGTH)
    sums_found = {v.parts[0] for v in found if v.rule == "metric-per-step"}
    names = "branch loop restarted emptied hits first second"
    assert sums_found == {f"metrics['{name}']" for name in names.split()}


def test_a_metric_with_a_memory_of_its_own_is_told_where_to_keep_it() -> None:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        best = jnp.maximum(given.metrics["effort"], s.metrics["effort"])
        return s.replace(metrics={**s.metrics, "effort": best})

    (violation,) = check_env(edited(Point, step=step)(), episode_length=LENGTH)
    assert violation.rule == "metric-per-step"
    assert "pipeline_state" in violation.fix


@pytest.mark.parametrize(
    "effect",
    [
        lambda a, b: (a**2, jnp.abs(b)),
        lambda a, b: (jnp.maximum(a - 0.8, 0.0), jnp.cos(jnp.pi * b)),
        lambda a, b: (a, jnp.where(a > 0.5, b, 0.0)),  # the second acts under the first alone
        lambda a, b: (jnp.cos(2 * jnp.pi * a), jnp.clip(9 * b, -1.0, 1.0) ** 2),
    ],
)
def test_a_number_that_does_the_same_at_both_bounds_matters(effect: Any) -> None:
    class Engine(Point):
        def step(self, state: State, action: jax.Array) -> State:
            return super().step(state, 0.1 * jnp.stack(effect(*action)))

    assert "action-matters" not in [v.rule for v in check_env(Engine(), episode_length=LENGTH)]


def test_a_choice_that_acts_under_another_alone_matters() -> None:
    class Push(Point):
        """How hard and where to; a push of 0 goes nowhere."""

        action_size = 2
        action_space = MultiDiscrete((2, 3))

        def step(self, state: State, action: jax.Array) -> State:
            angle = 2.0 * action[1]
            push = action[0] * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
            return super().step(state, push.astype(jnp.float32))

    assert check_env(Push(), episode_length=LENGTH) == []


def test_what_is_read_once_and_kept_may_be_read_late(tmp_path: Path) -> None:
    np.save(tmp_path / "wind.npy", np.ones(2, np.float32))

    class Late(Point):
        @functools.cached_property
        def wind(self) -> np.ndarray:
            return np.asarray(np.load(tmp_path / "wind.npy"))

        def step(self, state: State, action: jax.Array) -> State:
            return super().step(state, action * self.wind)

    assert check_env(Late(), episode_length=LENGTH) == []


def test_nan_that_is_observed_at_the_end_is_an_error() -> None:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        lean = jnp.where(s.done > 0, jnp.nan, s.pipeline_state["lean"])
        return s.replace(pipeline_state={"lean": lean}, obs=lean)

    found = check_env(edited(Pole, step=step)(), episode_length=LENGTH)
    assert [(v.rule, v.parts) for v in found] == [("finite", ("obs",))]


class Encoder(nn.Module):
    """A layer over the image, and the vector."""

    divided_by: float

    @nn.compact
    def __call__(self, observation: Any, normalized: Any) -> jax.Array:
        image = observation["pixels/view"].astype(jnp.float32) / self.divided_by
        features = nn.Dense(8)(image.reshape(*image.shape[:-3], -1))
        return jnp.concatenate([features, normalized["state"]], -1)


@pytest.mark.parametrize(("divided_by", "rules"), [(1.0, ["input-scale"]), (255.0, [])])
def test_an_image_of_bytes_has_to_be_scaled_by_the_encoder(
    divided_by: float, rules: list[str]
) -> None:
    networks = make_network_factory(Continuous(2), encoder=Encoder(divided_by))
    report = check(Sensed(), episode_length=LENGTH, network_factory=networks, time_limit=500)
    assert [v.rule for v in report.violations] == rules
    assert not report.unchecked
    assert all("obs['pixels/view']: values of up to 25" in v.actual for v in report.violations)


def test_a_flat_image_of_0_to_255_is_seen_if_no_statistics_normalise_it() -> None:
    class Flat(Picture):
        """As large as an image is, and from 0 to 255."""

        observation_size = 26 + 100

        def _observe(self, state: Any) -> jax.Array:
            image = 127.5 + 127.5 * jnp.sin(jnp.arange(100.0) + 9 * state.paddle + state.ball[1])
            return jnp.append(super()._observe(state), image)

    (violation,) = check_env(Flat(), episode_length=LENGTH)
    assert violation.rule == "input-scale"
    networks = make_network_factory(Continuous(1))
    for normalize, rules in ((True, []), (False, ["input-scale"])):
        report = check(
            Flat(),
            episode_length=LENGTH,
            network_factory=networks,
            normalize_observations=normalize,
            time_limit=500,
        )
        assert [v.rule for v in report.violations] == rules


def test_a_board_of_two_words_is_not_a_random_key() -> None:
    """Where it starts does not vary, and what an action does to it alone is seen."""

    def reset(self: Any, s: State, rng: jax.Array) -> State:
        return s.replace(info={**s.info, "board": jax.random.bits(rng, (2,))})

    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        board = given.info["board"] ^ (action[1] > 0).astype(jnp.uint32)
        return s.replace(info={**s.info, "board": board})

    class Second(Point):
        """Its second action is seen in the board alone, and what varies at first too."""

        def reset(self, rng: jax.Array) -> State:
            return super().reset(jax.random.PRNGKey(0))

        def step(self, state: State, action: jax.Array) -> State:
            return super().step(state, action.at[1].set(0.0))

    found = {v.rule for v in check_env(edited(Second, reset=reset, step=step)(), episode_length=9)}
    assert not found & {"action-matters", "start-varies", "key-used"}


@pytest.mark.long
def test_mjx_cartpole_passes_within_30_cpu_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tasks")
    from mjx_cartpole import MjxCartPole

    env, start = MjxCartPole(), time.process_time()
    report = check(env, episode_length=1000)
    assert report.violations == []
    assert not report.unchecked
    assert time.process_time() - start < 30


# TIME


def run(code: str, *, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a process of its own, as what a check gave up on goes on in a thread."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1] / "template" / "src" / "{{package_name}}")]
    code = f"import sys\nsys.path[:0] = {paths!r}\n" + code
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


SLOW = """
import time
import jax, jax.numpy as jnp, numpy as np
from bases import Point
from checking import check
from defects import edited

def wait(x):
    while True:
        time.sleep(0.1)

def step(self, s, given, action):
    if where == "traced":
        wait(0)
    if where == "run":
        noise = jax.pure_callback(wait, jax.ShapeDtypeStruct((), np.float32), s.reward,
                                  vmap_method="sequential")
        return s.replace(reward=noise)
    x = jnp.outer(s.obs, s.obs)
    for i in range(3000):  # takes XLA minutes
        x = jnp.sin(x) @ jnp.cos(x.T) + i * x
    return s.replace(reward=jnp.sum(x))
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["traced", "run", "compiled"])
def test_a_check_whose_time_is_up_fails_and_ends(where: str) -> None:
    limit = 2 if where == "compiled" else 5
    result = run(
        f"where = {where!r}\n"
        + SLOW
        + f"""
report = check(edited(Point, step=step)(), episode_length=60, time_limit={limit})
print(report.ok, report.stopped, len(report.unchecked), report.seconds, flush=True)
"""
    )
    assert result.returncode == 1, result.stderr  # and not -6: "terminate called ..."
    assert "terminate" not in result.stderr
    ok, stopped, unchecked, seconds = result.stdout.splitlines()[-1].split()
    assert (ok, stopped) == ("False", "True")
    assert int(unchecked) > 10
    assert float(seconds) < 5 * limit + 3


@pytest.mark.slow
def test_contract_tests_fail_when_the_time_is_up(tmp_path: Path) -> None:
    """With pytest's own report, and not a crash of the interpreter."""
    template = Path(__file__).parents[2] / "template" / "tests" / "test_contract.py.jinja"
    text = template.read_text().replace("from {{ package_name }} import config", "import config")
    text = text.replace("{{ package_name }}.kit", "kit")
    text = text.replace("[request.param])", "[request.param], time_limit=2)")
    (tmp_path / "test_contract.py").write_text(text)
    (tmp_path / "config.py").write_text(
        "where = 'compiled'\n"
        + SLOW
        + """
from kit import PPOConfig, Task
task = Task(edited(Point, step=step), PPOConfig(episode_length=60), None)
"""
    )
    code = f"""
import pytest
sys.path.insert(0, {str(tmp_path)!r})
sys.exit(pytest.main([{str(tmp_path)!r}, "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]))
"""
    result = run(code)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "the time was up" in result.stdout
    assert " failed, " in result.stdout
    assert "skipped" not in result.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_long_episode_is_cut_short_and_that_is_an_error() -> None:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        x = jax.lax.fori_loop(0, 1_000_000, lambda i, x: jnp.sin(x) + i, s.reward)
        return s.replace(reward=s.reward + 0 * x)

    report = check(edited(Point, step=step)(), episode_length=10_000, time_limit=10)
    assert not report.ok
    assert "check-finished" in [v.rule for v in report.violations] + list(report.unchecked)


# SMALLER THINGS


def test_infinite_rewards_print_nothing(recwarn: pytest.WarningsRecorder) -> None:
    env = edited(Point, step=lambda self, s, g, a: s.replace(reward=jnp.exp(1e3 * s.obs[0])))()
    assert [v.rule for v in check_env(env, episode_length=LENGTH)] == ["finite"]
    assert not [str(w) for w in recwarn if w.category is RuntimeWarning]


def test_the_same_seed_gives_the_same_report() -> None:
    env = edited(Point, step=lambda self, s, g, a: s.replace(reward=jnp.log(s.reward + 1.3)))
    first, again = (check_env(env(), seed=3, episode_length=LENGTH) for _ in range(2))
    assert first == again
    assert [v.rule for v in first] == ["finite"]


def printed(report: Report, show_all: bool = True) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(format_report(report, show_all))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_report_shows_every_rule_and_every_fix() -> None:
    env = edited(Pole, step=lambda self, s, g, a: s.replace(reward=1.0, done=s.done > 0))()
    report = check(env, episode_length=LENGTH)
    shown = printed(report)
    assert not report.ok
    for rule in RULES:
        assert rule.id in " ".join(shown.split())
    assert "✓  reset-runs" in shown
    assert "✗  reward-scalar" in shown
    assert "✗  done-scalar" in shown
    for violation in report.violations:
        assert violation.actual in shown
        assert violation.fix in shown


def test_a_report_of_what_is_kept_is_one_line() -> None:
    shown = printed(check(Pole(), episode_length=LENGTH), show_all=False)
    assert re.fullmatch(rf"{len(RULES)} rules kept, [\d.]+ s\n", shown)


def test_a_report_says_what_is_wrong_alone() -> None:
    env = edited(Pole, step=lambda self, s, g, a: s.replace(done=s.done > 0))()
    shown = printed(check(env, episode_length=LENGTH), show_all=False)
    assert "✗  done-scalar" in shown
    assert "reset-runs" not in shown
    assert "Checked once these errors are fixed: " in shown
    assert "1 error, " in shown.splitlines()[-1]


def test_a_rule_that_the_task_ignores_does_not_fail() -> None:
    """It is shown as ignored, and others that need it are judged."""
    env = edited(Point, reset=lambda self, s, rng: s.replace(reward=jnp.ones(())))()
    assert not check(env, episode_length=LENGTH).ok
    ignored = ("reset-at-zero", "episode-ends")
    report = check(env, episode_length=LENGTH, ignore_rules=ignored)
    assert report.ok
    assert report.violations == []
    assert report.to_dict()["ignored"] == {
        "reset-at-zero": "reward is 1 after 9 of 9 resets",
        "episode-ends": "",
    }
    for show_all in (False, True):
        shown = printed(report, show_all)
        assert re.search("-  reset-at-zero +ignored: reward is 1 after 9 of 9 resets", shown)
        assert f"{len(RULES) - 2} rules kept, 2 rules ignored, " in shown


def test_a_rule_to_ignore_has_to_exist() -> None:
    with pytest.raises(UsageError, match="'episode-end', which is no rule: did you mean episode-e"):
        check(Point(), ignore_rules=("episode-end",))
    with pytest.raises(UsageError, match=r"a tuple: \('finite',\), with a comma"):
        check(Point(), ignore_rules="finite")  # type: ignore[arg-type]


def test_an_environment_alone_is_checked_as_a_task_is() -> None:
    assert examine(Pole()).violations == examine(Pole).violations == []


def test_report_as_json() -> None:
    env = edited(Point, backend=None)()
    told = json.loads(json.dumps(check(env, episode_length=LENGTH).to_dict()))
    assert told["ok"] is False
    assert told["violations"][0]["rule"] == "backend"
    keys = {"rule", "severity", "expected", "actual", "fix", "parts"}
    assert set(told["violations"][0]) == keys
    assert told["unchecked"] == {}


def test_rule_names_are_those_of_the_page() -> None:
    page = Path(__file__).parents[2] / "docs" / "check.md"
    text = page.read_text()
    for rule in RULES:
        assert f"`{rule.id}`" in text, rule.id
    rows = re.findall(r"^\| (.+?) \| .+ \| `([a-z-]+)`: ", text, re.M)
    assert rows == [(defect.title, defect.rule) for defect in DEFECTS]
