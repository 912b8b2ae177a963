"""What a rule is, the scheduler that applies the rules, and what it reports."""

import atexit
import difflib
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

from ..errors import Failure, UsageError, failure, text_of
from ..ppo.task import Task
from ..trace.calls import Call
from .advice import fix_of
from .rollout import roll_out
from .stages import Clock, Subject, Traced, attempt, make

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Violation:
    """A rule that an environment breaks.

    Attributes:
      rule: its id, such as `done-scalar`; these ids do not change.
      severity: "error" if training would fail or learn something else, else "warning".
      expected: what the rule asks for.
      actual: what the environment does instead, and where.
      fix: code or a sentence that repairs it.
      parts: the leaves of the state that are at fault, such as `info['wind']`.
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
    """A rule could not be judged, since what it judges did not happen."""

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


def error(id: str, says: str, *needs: str) -> Callable[[Look], Look]:
    """Adds a rule to `RULES`: the parameters of the function below are stages."""
    return _rule(id, "error", says, needs)


def warning(id: str, says: str, *needs: str) -> Callable[[Look], Look]:
    """The same, where training goes on."""
    return _rule(id, "warning", says, needs)


def _rule(id: str, severity: Severity, says: str, needs: tuple[str, ...]) -> Callable[[Look], Look]:
    def add(look: Look) -> Look:
        assert set(needs) <= {known.id for known in RULES}, needs
        hints = typing.get_type_hints(look)
        stages = tuple(kind for name, kind in hints.items() if name != "return")
        RULES.append(Rule(id, severity, says, needs, stages, look))
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
      violations: the broken rules, in the order of `RULES`.
      unchecked: rules that could not be judged, and why: the time was up, or the checker failed.
      waiting: rules that can be judged once the errors that were found are fixed.
      unseen: rules about something that did not happen, and what that is.
      seconds: how long it took.
      stopped: whether the time was up and a thread still works on the environment. A process that
        ends meanwhile does so with exit code 1, as nothing else stops XLA.
      ignored: the task's `ignore_rules`, and how each is broken; empty where it is not.
    """

    violations: list[Violation]
    unchecked: dict[str, str]
    waiting: list[str]
    unseen: dict[str, str]
    seconds: float
    stopped: bool = False
    ignored: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every rule of severity "error" was checked and is kept, or is ignored."""
        errors = {rule.id for rule in RULES if rule.severity == "error"}
        return not errors & {*(v.rule for v in self.violations), *self.unchecked}

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types: "ok" and the attributes above."""
        return {"ok": self.ok, **asdict(self)}


def examine(
    task: Task | Env | Callable[[], Env], *, seed: int = 0, time_limit: float = 60.0
) -> Report:
    """Judges each rule of a Brax environment.

    Args:
      task: a task, whose episode length, action repeat and networks are used as in training; or one
        environment, not batched and not wrapped, or what makes one.
      seed: all keys and actions follow from it.
      time_limit: seconds of tracing and running after which it stops. Compiling is not counted,
        but may take at most four times as long.

    Returns:
      A report. What the environment raises is among its violations and is not raised here.

    Raises:
      UsageError: the task ignores a rule that does not exist.
    """
    if not isinstance(task, Task):
        env: Any = task
        task = Task.without_networks(
            env if callable(env) and not isinstance(env, Env) else lambda: env
        )
    known = [rule.id for rule in RULES]
    for id in task.ignore_rules:
        if id not in known:
            near = difflib.get_close_matches(id, known, cutoff=0.5)
            more = f": did you mean {' or '.join(near)}?" if near else "; `check --all` lists them."
            raise UsageError(f"ignore_rules names {id!r}, which is no rule{more}")
    clock = Clock(time_limit)
    began, work = time.monotonic(), _Work(Subject(task, seed, clock))
    # A thread, as neither a compilation nor a loop in `step` can be stopped from outside.
    # It traces and compiles whatever JAX_DISABLE_JIT says, which holds for each thread by itself.
    worker = threading.Thread(target=jax.disable_jit(False)(work.run), daemon=True)
    worker.start()
    while worker.is_alive() and not clock.over():
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

    subject: Subject
    violations: list[Violation] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    unseen: dict[str, str] = field(default_factory=dict)
    puzzles: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)

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
                what = failure(error, self.subject.env)
                broken = next(rule for rule in RULES if rule.id == "runs-compiled")
                self.add(broken, Finding(f"{what}, when compiled and run", fix_of(what)))

    def stages(self) -> Iterator[Any]:
        """The stages, as far as the environment lets it get."""
        self.subject = replace(self.subject, env=make(self.subject.task.environment))
        yield self.subject
        if self.errors or isinstance(self.subject.env, Failure):
            return
        yield (tried := attempt(self.subject))
        if isinstance(tried.reset, Call) and isinstance(tried.step, Call):
            yield (traced := Traced(tried.space, tried.reset, tried.step))
            if not self.errors and not self.puzzles:
                yield roll_out(self.subject, traced)

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
        if rule.id in self.subject.task.ignore_rules:
            self.ignored[rule.id] = "; ".join(x.actual for x in breaks)
            breaks = []
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
        ignored = {id: self.ignored.get(id, "") for id in self.subject.task.ignore_rules}
        violations = list(self.violations)
        unchecked = {id: why for id, why in self.puzzles.items() if id not in ignored}
        judged = {*self.held, *unchecked, *(v.rule for v in violations), *ignored}
        rest = [rule.id for rule in RULES if rule.id not in judged]
        waiting = rest if not stopped and self.errors else []
        if not waiting:
            why = "the time was up" if stopped else "a rule that it needs was not checked"
            unchecked |= dict.fromkeys(rest, why)
        order = [rule.id for rule in RULES]
        violations.sort(key=lambda v: order.index(v.rule))
        unseen = {id: why for id, why in self.unseen.items() if id in judged - ignored.keys()}
        return Report(violations, unchecked, waiting, unseen, seconds, stopped, ignored)
