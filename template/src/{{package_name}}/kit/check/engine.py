"""What a rule is, the scheduler that applies the rules, and the report."""

import atexit
import os
import sys
import threading
import time
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import jax
from brax.envs.base import Env
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..env.actions import ActionSpace
from ..errors import failure, text_of
from ..trace.calls import Call
from .advice import fix_of
from .rollout import Rollout
from .stages import Attempt, Clock, Settings, Traced, make

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Violation:
    """A rule that an environment breaks.

    Attributes:
      rule: its name, such as `done-scalar`; these names do not change.
      severity: "error" if training would fail or learn something else, else "warning".
      expected: what the rule asks for.
      actual: what was found, and where.
      fix: code or a sentence that repairs it.
      parts: the leaves of the state that it is about, such as `info['wind']`.
    """

    rule: str
    severity: Severity
    expected: str
    actual: str
    fix: str
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.rule}: {self.actual} (expected: {self.expected}). Fix: {self.fix}"


@dataclass(frozen=True)
class Finding:
    """`actual`, `fix` and `parts` of a `Violation`."""

    actual: str
    fix: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unseen:
    """A rule could not be judged, since what it is about did not happen."""

    why: str


Look = Callable[..., Iterator[Finding | Unseen]]


@dataclass(frozen=True)
class Rule:
    """A rule: `look` takes `stages` and yields what breaks it, once the rules it `needs` hold."""

    id: str
    severity: Severity
    says: str
    needs: tuple[str, ...]
    stages: tuple[type, ...]
    look: Look


RULES: list[Rule] = []


def rule(severity: Severity, says: str, needs: Iterable[str] = ()) -> Callable[[Look], Look]:
    """Adds the function below to `RULES`: its name is the rule's, its parameters are stages."""

    def add(look: Look) -> Look:
        assert set(needs) <= {known.id for known in RULES}, needs
        hints = typing.get_type_hints(look)
        stages = tuple(kind for name, kind in hints.items() if name != "return")
        name = look.__name__.replace("_", "-")
        RULES.append(Rule(name, severity, says, tuple(needs), stages, look))
        return look

    return add


def names(paths: Iterable[Any], shown: int = 4) -> str:
    """The first few of many, and how many more there are."""
    paths = list(paths)
    more = f" and {len(paths) - shown} more" if len(paths) > shown else ""
    return ", ".join(map(str, paths[:shown])) + more


@dataclass(frozen=True)
class Report:
    """The outcome of a check.

    Attributes:
      violations: what was found, in the order of `RULES`.
      unchecked: rules that could not be judged, and why: the time was up, or the checker failed.
      waiting: rules that can be judged once the errors that were found are fixed.
      unseen: rules about something that did not happen, and what that is.
      seconds: how long it took.
      stopped: whether the time was up and a thread still works on the environment. A process that
        ends meanwhile does so with exit code 1, as nothing else stops XLA.
    """

    violations: list[Violation]
    unchecked: dict[str, str]
    waiting: list[str]
    unseen: dict[str, str]
    seconds: float
    stopped: bool = False

    @property
    def ok(self) -> bool:
        """Whether every rule of severity "error" was checked and is kept."""
        errors = {rule.id for rule in RULES if rule.severity == "error"}
        return not errors & {*(v.rule for v in self.violations), *self.unchecked}

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types: "ok" and the attributes above."""
        return {"ok": self.ok, **asdict(self)}


def check_env(
    env: Env | Callable[[], Env],
    *,
    seed: int = 0,
    episode_length: int = 1000,
    action_repeat: int = 1,
    action_space: ActionSpace | None = None,
    time_limit: float = 60.0,
) -> list[Violation]:
    """Names every rule of a Brax environment that `env` breaks, in the order of `RULES`.

    Args:
      env: one environment, not batched and not wrapped, or what makes one.
      seed, episode_length, action_repeat, action_space, time_limit: those of `examine`.

    Returns:
      The violations; empty if all rules are kept. What `env` raises is among them and is not
      raised here.
    """
    return examine(
        env,
        seed=seed,
        episode_length=episode_length,
        action_repeat=action_repeat,
        action_space=action_space,
        time_limit=time_limit,
    ).violations


def examine(
    env: Env | Callable[[], Env],
    *,
    seed: int = 0,
    episode_length: int = 1000,
    action_repeat: int = 1,
    action_space: ActionSpace | None = None,
    time_limit: float = 60.0,
    network_factory: Callable[..., Any] | None = None,
    normalize_observations: bool = True,
) -> Report:
    """Does what `check_env` does, and also says what was not checked.

    Args:
      env: one environment, not batched and not wrapped, or what makes one, as a task has it.
      seed: all keys and actions follow from it.
      episode_length: the time limit of an episode, as in training.
      action_repeat: how often each action is applied, as in training.
      action_space: what `step` takes. If None: `env.action_space`, or else what `step` is found to
        take, numbers in [-1, 1] or a choice.
      time_limit: seconds of tracing and running after which it stops. Compiling is not counted,
        but may take at most four times as long.
      network_factory: as `ppo.train` takes it, to see what enters the networks.
      normalize_observations: whether running statistics normalise it, as in training.
    """
    clock = Clock(time_limit)
    settings = Settings(
        env,
        seed,
        episode_length,
        action_repeat,
        action_space,
        clock,
        network_factory,
        normalize_observations,
    )
    began, work = time.monotonic(), _Work(settings)
    # A thread, as neither a compilation nor a loop in `step` can be stopped from outside.
    # It traces and compiles whatever JAX_DISABLE_JIT says, which holds for each thread by itself.
    worker = threading.Thread(target=jax.disable_jit(False)(work.run), daemon=True)
    worker.start()
    while worker.is_alive() and not settings.clock.over():
        worker.join(0.02)
    if stopped := worker.is_alive():
        atexit.register(_leave, worker)
    return work.report(time.monotonic() - began, stopped)


def _leave(worker: threading.Thread) -> None:
    """Ends the process: the interpreter would abort as it stops a thread that is inside XLA."""
    if worker.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


@dataclass
class _Work:
    """What a check has found so far."""

    settings: Settings
    violations: list[Violation] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    unseen: dict[str, str] = field(default_factory=dict)
    puzzles: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Makes the stages, and judges each rule once the stages that it takes are there."""
        have: list[Any] = []
        try:
            for stage in self.stages():
                have.append(stage)
                for rule in RULES:
                    if rule.stages[-1] is type(stage):
                        self.judge(rule, [x for x in have if type(x) in rule.stages])
        except BaseException as error:
            if not self.errors:
                what = failure(error, self.settings.env)
                broken = next(rule for rule in RULES if rule.id == "runs-compiled")
                self.add(broken, Finding(f"{what}, when compiled and run", fix_of(what)))

    def stages(self) -> Iterator[Any]:
        """The stages, as far as the environment lets it get."""
        self.settings = replace(self.settings, env=make(self.settings.env))
        yield self.settings
        if self.errors:
            return
        yield (attempt := Attempt.of(self.settings))
        if isinstance(attempt.reset, Call) and isinstance(attempt.step, Call):
            yield (traced := Traced(attempt.space, attempt.reset, attempt.step))
            if not self.errors and not self.puzzles:
                yield Rollout(self.settings, traced)

    @property
    def errors(self) -> list[Violation]:
        return [v for v in self.violations if v.severity == "error"]

    def judge(self, rule: Rule, stages: list[Any]) -> None:
        if not self.held.issuperset(rule.needs):
            return
        reported = {part for v in self.errors for part in v.parts}
        try:
            found = list(rule.look(*stages))
        except BaseException as error:  # an environment stranger than the rule expects
            self.puzzles[rule.id] = f"could not be judged: {type(error).__name__} {text_of(error)}"
            return
        breaks = [x for x in found if isinstance(x, Finding)]
        self.unseen.update((rule.id, x.why) for x in found if isinstance(x, Unseen))
        for finding in breaks:
            # An error in these parts of the state is reported: this one only follows from it.
            if not finding.parts or not reported.issuperset(finding.parts):
                self.add(rule, finding)
        if not breaks:
            self.held.add(rule.id)

    def add(self, rule: Rule, x: Finding) -> None:
        found = Violation(rule.id, rule.severity, rule.says, x.actual, x.fix, x.parts)
        self.violations.append(found)

    def report(self, seconds: float, stopped: bool) -> Report:
        violations, unchecked = list(self.violations), dict(self.puzzles)
        judged = {*self.held, *unchecked, *(v.rule for v in violations)}
        rest = [rule.id for rule in RULES if rule.id not in judged]
        waits = not stopped and bool(self.errors)
        if not waits:
            why = "the time was up" if stopped else "a rule that it needs was not checked"
            unchecked |= dict.fromkeys(rest, why)
        order = [rule.id for rule in RULES]
        violations.sort(key=lambda v: order.index(v.rule))
        unseen = {rule: why for rule, why in self.unseen.items() if rule in judged}
        return Report(violations, unchecked, rest * waits, unseen, seconds, stopped)


MARKS = {"error": Text("✗", "bold red"), "warning": Text("!", "bold yellow")}


def format_report(report: Report) -> RenderableType:
    """The rules: ✓ kept, ✗ broken, ! look twice, ? not seen, · not checked; then what to fix."""
    broken = {v.rule: MARKS[v.severity] for v in report.violations}
    rules = Table(box=None, show_header=False, pad_edge=False)
    for rule in RULES:
        mark, says = broken.get(rule.id, Text("✓", "green")), Text(rule.says)
        if rule.id in report.unchecked:
            mark, says = Text("·", "dim"), Text(f"not checked: {report.unchecked[rule.id]}", "dim")
        elif rule.id in report.unseen and rule.id not in broken:
            mark, says = Text("?", "yellow"), Text(f"not seen: {report.unseen[rule.id]}", "yellow")
        if rule.id not in report.waiting:
            rules.add_row(mark, rule.id, says)
    below: list[RenderableType] = []
    for v in report.violations:
        fix = Table(box=None, show_header=False, pad_edge=False)
        fix.add_row(MARKS[v.severity], Text(v.rule, "bold"))
        for word, text in (("expected", v.expected), ("found", v.actual), ("fix", v.fix)):
            fix.add_row("", Text(word, "dim"), Text(text))
        below += [Text(), fix]
    if report.waiting:
        what = f"Checked once these errors are fixed: {', '.join(report.waiting)}."
        below += [Text(), Text(what, "dim")]
    errors = sum(v.severity == "error" for v in report.violations)
    counts = [(errors, "error", ""), (len(report.violations) - errors, "warning", "")]
    counts += [(len(report.unchecked), "rule", " not checked")] * bool(report.unchecked)
    last = ", ".join(f"{n} {what}{'s' * (n != 1)}{more}" for n, what, more in counts)
    return Group(rules, *below, Text(), Text(f"{last}; {report.seconds:.1f} s"))
