"""What a rule is. The rules themselves are in `interface`, `state`, `purity` and `episodes`.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

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
    """What a rule found: `actual`, `fix` and `parts` of a `Violation`."""

    actual: str
    fix: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unseen:
    """The rule could not be judged, since what it is about did not happen."""

    why: str


Look = Callable[..., Iterator[Finding | Unseen]]


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
      id: its name.
      severity: what it means to break it.
      says: what it asks for.
      needs: the rules that have to hold before it can be judged.
      stages: the types of the stages that `look` takes.
      look: yields what breaks the rule.
    """

    id: str
    severity: Severity
    says: str
    needs: tuple[str, ...]
    stages: tuple[type, ...]
    look: Look


RULES: list[Rule] = []


def rule(severity: Severity, says: str, needs: Iterable[str] = ()) -> Callable[[Look], Look]:
    """Adds the function below to `RULES`: its name is the rule's, its parameters are stages."""

    needs = tuple(needs)

    def add(look: Look) -> Look:
        hints = typing.get_type_hints(look)
        stages = tuple(kind for name, kind in hints.items() if name != "return")
        assert set(needs) <= {known.id for known in RULES}, needs
        name = look.__name__.replace("_", "-")
        RULES.append(Rule(name, severity, says, needs, stages, look))
        return look

    return add


# WORDS


def names(paths: Iterable[Any], shown: int = 4) -> str:
    """The first few of many, and how many more there are."""
    paths = list(paths)
    more = f" and {len(paths) - shown} more" if len(paths) > shown else ""
    return ", ".join(map(str, paths[:shown])) + more


def key_of(path: str) -> str:
    """The first key in a path: `wind` for `info['wind']`; empty where there is none."""
    return path.split("['")[1].split("']")[0] if "['" in path else ""


def shape_of(leaf: Any) -> str:
    return f"{leaf.shape} {leaf.dtype}"
