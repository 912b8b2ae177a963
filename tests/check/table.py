"""The table of docs/check.md that says what is said about each planted defect."""

import re
from collections.abc import Sequence
from pathlib import Path

from defects import DEFECTS, Defect
from kit.check import Violation

PAGE = Path(__file__).parents[2] / "docs" / "check.md"
ROW = re.compile(r"^\| (.+?) \| (.+) \| (`[a-z-]+`: .+|\*\*nothing\*\*) \|$", re.M)


def rows() -> dict[tuple[str, str, int], tuple[str, str]]:
    """What `ppo.train` and what `check` says: by title, rule and how many such rows came before."""
    found: dict[tuple[str, str, int], tuple[str, str]] = {}
    for title, train, check in ROW.findall(PAGE.read_text()):
        of_rule = check.split("`")[1] if "`" in check else ""
        number = sum(key[:2] == (title, of_rule) for key in found)
        found[title, of_rule, number] = train, check
    return found


def key_of(defect: Defect) -> tuple[str, str, int]:
    same = [d for d in DEFECTS if (d.title, d.rule) == (defect.title, defect.rule)]
    return defect.title, defect.rule, same.index(defect)


def what_check_says(violations: Sequence[Violation], defect: Defect) -> str:
    found = [v for v in violations if v.rule == defect.rule]
    return f"`{defect.rule}`: {cell(found[0].actual, 160)}" if found else "**nothing**"


def without_numbers(text: str) -> str:
    """What is the same on every machine and with every JAX: no numbers, no message of another's."""
    text = re.sub(r"(raises \w+).*", r"\1", text)
    return re.sub(r"-?[\d.]+(e[+-]?\d+)?", "#", text)[:110]


def cell(text: str, longest: int) -> str:
    """One line that does not break a table, without memory addresses and line numbers."""
    text = re.sub(r"0x[0-9a-f]+|\b\d{12,}\b", "...", text.replace("\n", " "))
    text = re.sub(r"(defects\.py):\d+", r"\1", text)
    text = text if len(text) <= longest else text[: longest - 3] + "..."
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "'")
