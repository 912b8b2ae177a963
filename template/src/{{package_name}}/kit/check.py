"""Whether an environment keeps the rules that Brax and its training loops rest on. The template's:
not for editing.

`check_env` names every broken rule, with what was expected, what was found and a line that mends
it. The environment is traced, which finds most, and then run for whole episodes, many at once. It
is never trained. The rules themselves stand in `checking/rules.py`.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from brax.envs.base import Env
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .checking.rules import RULES, Rule, Violation
from .checking.seen import Seen, declare, run_many, run_one, trace_all, wrap
from .checking.tracing import Actions, failure, said

__all__ = ["RULES", "Report", "Rule", "Violation", "check_env", "examine", "format_report"]

# After one of these an environment does not get as far as the wrappers' own work.
FORM = {"returns-state", "reward-scalar", "done-scalar", "metric-scalar", "observation-type"}
FORM |= {"wrapper-keys", "reserved-keys", "metrics-keys", "info-keys", "state-structure"}
FORM |= {"state-shapes", "state-dtypes", "no-self-write", "no-tracer-leak", "vmap-equals-loop"}
FORM |= {"one-trace"}


@dataclass(frozen=True)
class Report:
    """What came of a check.

    Attributes:
      violations: all that was found, in the order of `RULES`.
      unchecked: rules that could not be looked at, and why not.
      seconds: how long it took.
      stopped: whether the time was up. What it was at goes on in a thread of its own, and a
        process that ends meanwhile should do so with `os._exit`.
    """

    violations: list[Violation]
    unchecked: dict[str, str]
    seconds: float
    stopped: bool = False

    @property
    def ok(self) -> bool:
        """Whether no rule of severity "error" is broken."""
        return all(v.severity != "error" for v in self.violations)

    def to_json(self) -> str:
        """The report as JSON text: ok, violations, unchecked, seconds, stopped."""
        return json.dumps({"ok": self.ok, **asdict(self)}, indent=2, ensure_ascii=False)


def check_env(
    env: Env,
    *,
    seed: int = 0,
    episode_length: int = 1000,
    actions: Actions | None = None,
    time_limit: float = 60.0,
) -> list[Violation]:
    """Names every rule of a Brax environment that `env` breaks.

    Args:
      env: one environment, not batched and not wrapped.
      seed: all keys and actions follow from it.
      episode_length: how many steps episodes are followed for; a few more are taken.
      actions: "continuous" for (action_size,) float32 in [-1, 1], "discrete" for () int32 below
        action_size; None finds out which of them `step` takes.
      time_limit: seconds after which it stops, with what it has.

    Returns:
      The violations, in the order of `RULES`; empty when all rules are kept. Whatever `env` raises
      is among them and is not raised here.
    """
    return examine(
        env, seed=seed, episode_length=episode_length, actions=actions, time_limit=time_limit
    ).violations


def examine(
    env: Env,
    *,
    seed: int = 0,
    episode_length: int = 1000,
    actions: Actions | None = None,
    time_limit: float = 60.0,
) -> Report:
    """Does what `check_env` does, and says too which rules could not be looked at."""
    began = time.monotonic()
    seen = Seen(env, seed, episode_length, began + 0.7 * time_limit, actions)
    done: list[str] = []
    died: list[str] = []

    def work() -> None:
        try:
            _work(seen, done)
        except BaseException as error:  # stranger than anything that was thought of here
            died.append(f"after {type(error).__name__} {said(error)}")

    # A thread, since neither a compilation nor a loop in `step` can be stopped from outside.
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(time_limit)

    violations, late = list(seen.violations), worker.is_alive()
    stopped = f"after {time_limit:g} s" if late else "".join(died)
    known = {*done, *(v.rule for v in violations)}
    why = f"stopped {stopped}" if stopped else "mend the errors above first"
    unchecked = {rule.id: why for rule in RULES if rule.id not in known} | seen.puzzles
    if stopped:
        unchecked.pop("time-limit", None)
        left = ", ".join(unchecked)
        actual = f"stopped {stopped}, before looking at {left}"
        fix = f"check --time-limit {4 * time_limit:g}" if late else "report it to the template"
        violations.append(
            Violation("time-limit", "warning", "a check that gets to its end", actual, fix)
        )
    order = [rule.id for rule in RULES]
    violations.sort(key=lambda v: order.index(v.rule))
    return Report(violations, unchecked, time.monotonic() - began, late)


def _work(seen: Seen, done: list[str]) -> None:
    """Goes through the stages and applies the rules of each that it gets through."""
    stages: dict[str, Callable[[Seen], bool]] = {
        "declared": declare,
        "traced": trace_all,
        "run": run_one,
        "rollout": run_many,
        "wrapped": wrap,
    }
    for stage, observe in stages.items():
        if stage == "wrapped" and seen.broken(*FORM):
            break
        try:
            through = observe(seen)
        except BaseException as error:
            seen.crash, through = failure(error, seen.env), False
        for rule in RULES:
            if rule.stage == stage and (through or rule.early):
                _apply(rule, seen)
                done += [rule.id] * through
        if not through:
            break
    for rule in RULES:
        if rule.stage == "end":
            _apply(rule, seen)
            done.append(rule.id)


def _apply(rule: Rule, seen: Seen) -> None:
    try:
        for expected, actual, fix in rule.look(seen):
            seen.violations.append(Violation(rule.id, rule.severity, expected, actual, fix))
    except BaseException as error:  # an environment stranger than the rule can say
        seen.puzzles[rule.id] = f"could not be judged: {type(error).__name__} {said(error)}"


def format_report(report: Report) -> RenderableType:
    """The rules as a table: ✓ kept, ✗ broken, ! look twice, · not looked at; then what to mend."""
    marks = {"error": Text("✗", "bold red"), "warning": Text("!", "bold yellow")}
    broken = {v.rule: marks[v.severity] for v in report.violations}
    rules = Table(box=None, show_header=False, pad_edge=False)
    for rule in RULES:
        mark = broken.get(rule.id) or Text("✓", "green")
        says = Text(rule.says)
        if rule.id in report.unchecked:
            mark, says = Text("·", "dim"), Text(report.unchecked[rule.id], "dim")
        rules.add_row(mark, rule.id, says)

    mends: list[RenderableType] = []
    for v in report.violations:
        mend = Table(box=None, show_header=False, pad_edge=False)
        mend.add_row(marks[v.severity], Text(v.rule, "bold"))
        for word, text in (("expected", v.expected), ("found", v.actual), ("mend", v.fix)):
            mend.add_row("", Text(word, "dim"), Text(text))
        mends += [Text(), mend]
    errors = sum(v.severity == "error" for v in report.violations)
    counts = (
        (errors, "error", ""),
        (len(report.violations) - errors, "warning", ""),
        (len(report.unchecked), "rule", " not looked at"),
    )
    last = ", ".join(f"{n} {what}{'s' * (n != 1)}{more}" for n, what, more in counts)
    return Group(rules, *mends, Text(), Text(f"{last}; {report.seconds:.1f} s"))
