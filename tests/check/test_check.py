"""`check` names every planted defect by its own rule, and fails no correct environment."""

import io
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from bases import BASES, Base, Maze, Point, Pole
from brax.envs.base import Env, State
from correct import CORRECT, FOREIGN
from defects import DEFECTS, Defect, edited
from kit.check import RULES, check_env, examine, format_report
from rich.console import Console

LENGTH = 60
SEVERITIES = {rule.id: rule.severity for rule in RULES}

# Brax's physics take long to compile: most of it stays with the long tests.
QUICK = {"brax inverted_double_pendulum spring", "gymnax CartPole-v1", "gymnax Breakout-MinAtar"}
QUICK |= {"gymnax Pendulum-v1", "gymnax Catch-bsuite", "gymnax FourRooms-misc"}


def planted() -> list[Any]:
    """Each defect in each of its bases; those behind the first are long."""
    return [
        pytest.param(
            defect,
            base,
            id=f"{defect.rule}-{defect.title}-{base.__name__}".replace(" ", "_"),
            marks=[pytest.mark.long] if i else [],
        )
        for defect in DEFECTS
        for i, base in enumerate(defect.bases)
    ]


@pytest.mark.parametrize(("defect", "base"), planted())
def test_defect_is_caught(defect: Defect, base: type[Base], score: Counter[str]) -> None:
    score["planted"] += 1
    report = examine(defect.plant(base)(), episode_length=LENGTH, time_limit=100)
    told = "\n".join(map(str, report.violations))
    found = [v for v in report.violations if v.rule == defect.rule]
    assert found, told
    assert any(defect.names in v.actual for v in found), told
    assert all(v.severity == SEVERITIES[v.rule] and v.expected and v.fix for v in found)
    # The cause alone, and not what follows from it.
    assert {v.rule for v in report.violations if v.severity == "error"} <= {defect.rule}, told
    assert not report.unchecked
    score["caught"] += 1


def test_every_rule_has_two_defects() -> None:
    count = Counter(defect.rule for defect in DEFECTS)
    bases = {rule: {b for d in DEFECTS if d.rule == rule for b in d.bases} for rule in count}
    for rule in RULES:
        if rule.severity == "error":
            assert count[rule.id] >= 2, rule.id
            assert len(bases[rule.id]) >= 2, rule.id
        elif rule.id != "time-limit":
            assert count[rule.id] >= 1, rule.id


def passes(env: Env, score: Counter[str], **settings: Any) -> None:
    score["correct"] += 1
    score["failed"] += 1
    report = examine(env, time_limit=500, **settings)
    errors = [str(v) for v in report.violations if v.severity == "error"]
    assert not errors, "\n".join(errors)
    assert not report.unchecked
    score["failed"] -= 1


@pytest.mark.parametrize("name", CORRECT)
def test_correct_environment_passes(name: str, score: Counter[str]) -> None:
    passes(CORRECT[name](), score, episode_length=LENGTH)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.long]) for n in FOREIGN]
)
def test_foreign_environment_passes(name: str, score: Counter[str]) -> None:
    passes(FOREIGN[name](), score, episode_length=200)


@pytest.mark.parametrize("base", BASES)
def test_bases_have_nothing_to_say_of(base: type[Base]) -> None:
    """Warnings neither: otherwise the defects planted in them prove little."""
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

    env = edited(Point, step=step, backend=3, count=0)()
    found = {v.rule for v in check_env(env, episode_length=LENGTH) if v.severity == "error"}
    assert found == {
        "backend",
        "reward-scalar",
        "metrics-keys",
        "wrapper-keys",
        "no-self-write",
        "finite",
    }


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


def test_where_no_line_is_to_blame_the_class_is_named() -> None:
    class NoKey(Pole):
        def reset(self) -> State:  # type: ignore[override]
            return super().reset(jax.random.PRNGKey(0))

    (violation,) = check_env(NoKey())
    assert violation.rule == "reset-runs"
    assert violation.actual.startswith("NoKey raises TypeError")
    assert "positional argument" in violation.actual


@pytest.mark.parametrize("env", [object(), None, 3, Point, lambda: None])
def test_what_is_no_environment_is_told_and_not_raised(env: Any) -> None:
    found = check_env(env, time_limit=30)
    assert found
    assert all(isinstance(v.actual, str) for v in found)


def test_even_an_exit_does_not_get_out() -> None:
    env = edited(Maze, step=lambda self, s, g, a: sys.exit("enough"))()
    assert [v.rule for v in check_env(env)] == ["step-runs"]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise Unspeakable

    __repr__ = __str__


def test_what_can_not_be_said_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise Unspeakable

    (violation,) = check_env(edited(Maze, step=fail)(), episode_length=LENGTH)
    assert violation.rule == "step-runs"
    assert "Unspeakable" in violation.actual
    monkeypatch.setattr("kit.check._work", fail)
    report = examine(Maze(), episode_length=LENGTH)
    assert [(v.rule, v.severity) for v in report.violations] == [("time-limit", "warning")]
    assert "stopped after Unspeakable" in report.violations[0].actual
    assert "reset-runs" in report.unchecked


@pytest.mark.parametrize("where", ["traced", "run"])
def test_it_stops_by_itself(where: str) -> None:
    """In a process of its own, since what it gave up on goes on meanwhile."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1] / "template" / "src" / "{{package_name}}")]
    code = f"""
import sys, time
sys.path[:0] = {paths!r}
import jax, numpy as np
from bases import Point
from defects import edited
from kit.check import check_env
from kit.checking import running

def wait(x):
    while True:
        time.sleep(0.1)

def step(self, s, given, action):
    if {where!r} == "traced":
        wait(0)
    noise = jax.pure_callback(wait, jax.ShapeDtypeStruct((), np.float32), s.reward)
    return s.replace(reward=noise)

began = time.monotonic()
found = check_env(edited(Point, step=step)(), time_limit=5)
print(time.monotonic() - began, [v.rule for v in found], found[-1].actual, flush=True)
import os
os._exit(0)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    seconds, told = result.stdout.splitlines()[-1].split(" ", 1)
    assert float(seconds) < 8, result.stdout
    assert "time-limit" in told
    assert "stopped after 5 s" in told


def test_a_long_episode_is_cut_short_with_what_was_seen() -> None:
    def step(self: Any, s: State, given: State, action: jax.Array) -> State:
        x = jax.lax.fori_loop(0, 100_000, lambda i, x: jnp.sin(x) + i, s.reward)
        return s.replace(reward=s.reward + 0 * x)

    began = time.monotonic()
    found = check_env(edited(Point, step=step)(), episode_length=100_000, time_limit=30)
    assert time.monotonic() - began < 35
    assert "time-limit" in [v.rule for v in found]


def test_the_kind_of_action_is_found_out_or_told() -> None:
    assert check_env(Maze(), actions="discrete", episode_length=LENGTH) == []
    (violation,) = check_env(Maze(), actions="continuous", episode_length=LENGTH)
    assert violation.rule == "step-runs"


def test_endless_rewards_make_no_noise(recwarn: pytest.WarningsRecorder) -> None:
    env = edited(Point, step=lambda self, s, g, a: s.replace(reward=jnp.exp(1e3 * s.obs[0])))()
    assert [v.rule for v in check_env(env, episode_length=LENGTH)] == ["finite"]
    assert not [str(w) for w in recwarn if w.category is RuntimeWarning]


def test_seed_makes_it_repeat_itself() -> None:
    env = edited(Point, step=lambda self, s, g, a: s.replace(reward=jnp.log(s.reward + 1.3)))
    first, again = (check_env(env(), seed=3, episode_length=LENGTH) for _ in range(2))
    assert first == again
    assert [v.rule for v in first] == ["finite"]


def test_report_shows_every_rule_and_every_mend() -> None:
    env = edited(Pole, step=lambda self, s, g, a: s.replace(reward=1.0, done=s.done > 0))()
    report = examine(env, episode_length=LENGTH)
    console = Console(file=io.StringIO(), width=200)
    console.print(format_report(report))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert not report.ok
    for rule in RULES:
        assert rule.id in shown
    assert "✓  reset-runs" in shown
    assert "✗  reward-scalar" in shown
    assert "✗  done-scalar" in shown
    assert "·  survives-wrappers" in shown
    for violation in report.violations:
        assert violation.actual in shown
        assert violation.fix in shown


def test_report_as_json() -> None:
    env = edited(Point, backend=None)()
    report = examine(env, episode_length=LENGTH)
    told = json.loads(report.to_json())
    assert told["ok"] is False
    assert told["violations"][0]["rule"] == "backend"
    assert set(told["violations"][0]) == {"rule", "severity", "expected", "actual", "fix"}
    assert told["unchecked"] == {}


def test_rule_names_are_those_of_the_page() -> None:
    page = Path(__file__).parents[2] / "docs" / "check.md"
    text = page.read_text()
    for rule in RULES:
        assert f"`{rule.id}`" in text, rule.id
