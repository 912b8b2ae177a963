"""The scheduler: makes the stages one after another and applies the rules that each allows.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

import atexit
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

from brax.envs.base import Env

from ..actions import ActionSpace
from .rules import RULES, Finding, Rule, Unseen, Violation
from .stages import Attempt, Clock, Rollout, Settings, Traced, Wrapped, observe
from .tracing import Failure, failure, text_of

STAGES = (Settings, Attempt, Traced, Rollout, Wrapped)


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
        return not errors & ({v.rule for v in self.violations} | set(self.unchecked))

    def to_json(self) -> str:
        """The report as JSON text: "ok" and the attributes above."""
        return json.dumps({"ok": self.ok, **asdict(self)}, indent=2, ensure_ascii=False)


def check_env(
    env: Env,
    *,
    seed: int = 0,
    episode_length: int = 1000,
    action_repeat: int = 1,
    action_space: ActionSpace | None = None,
    time_limit: float = 60.0,
) -> list[Violation]:
    """Names every rule of a Brax environment that `env` breaks.

    Args:
      env: one environment, not batched and not wrapped.
      seed: all keys and actions follow from it.
      episode_length: the time limit of an episode, as in training.
      action_repeat: how often each action is applied, as in training.
      action_space: what `step` takes; None takes `env.action_space`, or tries numbers in [-1, 1]
        and choices.
      time_limit: seconds of tracing and running after which it stops. Compiling is not counted;
        it may take four times as long.

    Returns:
      The violations, in the order of `RULES`; empty if all rules are kept. What `env` raises is
      among them and is not raised here.
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
    env: Env,
    *,
    seed: int = 0,
    episode_length: int = 1000,
    action_repeat: int = 1,
    action_space: ActionSpace | None = None,
    time_limit: float = 60.0,
) -> Report:
    """Does what `check_env` does, and also says what was not checked."""
    began, clock = time.monotonic(), Clock(time_limit)
    settings = Settings(env, seed, episode_length, action_repeat, action_space, clock)
    work = _Work(settings)
    # A thread, as neither a compilation nor a loop in `step` can be stopped from outside.
    worker = threading.Thread(target=work.run, daemon=True)
    worker.start()
    while worker.is_alive() and not clock.over():
        worker.join(0.02)
    stopped = worker.is_alive()
    if stopped:
        atexit.register(_leave, worker)
    return work.report(time.monotonic() - began, stopped)


def _leave(worker: threading.Thread) -> None:
    """Ends the process: the interpreter would abort when it stops a thread that is in XLA."""
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
    blocked: dict[str, str] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    puzzles: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Makes the stages, and judges each rule as soon as the stages that it takes are there."""
        have: dict[type, object] = {Settings: self.settings}
        try:
            for stage in observe(self.settings):
                have[type(stage)] = stage
                for rule in RULES:
                    if rule.stages and max(rule.stages, key=STAGES.index) is type(stage):
                        self.judge(rule, have)
        except BaseException as error:
            self.crash(failure(error, self.settings.env))

    def judge(self, rule: Rule, have: dict[type, object]) -> None:
        if any(need not in self.held for need in rule.needs):
            return
        reported = {part for v in self.violations for part in v.parts}
        kept = True
        try:
            for found in rule.look(*(have[stage] for stage in rule.stages)):
                if isinstance(found, Unseen):
                    self.unseen[rule.id] = found.why
                    continue
                kept = False
                if not found.parts or not reported.issuperset(found.parts):
                    self.add(rule, found)
        except BaseException as error:  # an environment stranger than the rule expects
            why = f"could not be judged: {type(error).__name__} {text_of(error)}"
            self.puzzles[rule.id] = why
            return
        if kept:
            self.held.add(rule.id)

    def add(self, rule: Rule, found: Finding) -> None:
        self.violations.append(
            Violation(rule.id, rule.severity, rule.says, found.actual, found.fix, found.parts)
        )

    def crash(self, fail: Failure) -> None:
        if not any(v.severity == "error" for v in self.violations):
            rule = next(rule for rule in RULES if rule.id == "runs-compiled")
            self.add(rule, Finding(f"{fail} when it is compiled and run", f"correct {fail.where}"))

    def report(self, seconds: float, stopped: bool) -> Report:
        violations, held = list(self.violations), set(self.held)
        judged = held | set(self.puzzles) | {v.rule for v in violations}
        broken = any(v.severity == "error" for v in violations)
        rest = [rule.id for rule in RULES if rule.id not in judged]
        unchecked, waiting = dict(self.puzzles), []
        if stopped:
            unchecked |= dict.fromkeys(rest, "the time was up")
        elif broken:
            waiting = rest
        else:
            unchecked |= dict.fromkeys(rest, "it could not be reached")
        order = [rule.id for rule in RULES]
        violations.sort(key=lambda v: order.index(v.rule))
        return Report(violations, unchecked, waiting, dict(self.unseen), seconds, stopped)
