"""A report as text."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .engine import RULES, Report

MARKS = {"error": Text("✗", "bold red"), "warning": Text("!", "bold yellow")}


def format_report(report: Report, show_all: bool = False) -> RenderableType:
    """What is wrong and how to fix it; one line where nothing is.

    Marks: ✗ error, ! warning, ? not seen, · not checked, - ignored, and with `show_all` ✓ kept.
    """
    rows, kept = Table(box=None, show_header=False, pad_edge=False), 0
    broken = {v.rule: MARKS[v.severity] for v in report.violations}
    for rule in RULES:
        mark, says = broken.get(rule.id), Text(rule.says)
        if rule.id in report.ignored:
            what = report.ignored[rule.id]
            mark, says = Text("-", "dim"), Text(f"ignored: {what}" if what else "ignored", "dim")
        elif rule.id in report.unchecked:
            mark, says = Text("·", "dim"), Text(f"not checked: {report.unchecked[rule.id]}", "dim")
        elif rule.id in report.unseen and not mark:
            mark, says = Text("?", "yellow"), Text(f"not seen: {report.unseen[rule.id]}", "yellow")
        elif rule.id in report.waiting:
            continue
        elif not mark:
            mark, kept = Text("✓", "green"), kept + 1
        is_shown_below = rule.id in broken or mark.plain == "✓"
        if show_all or not is_shown_below:
            rows.add_row(mark, rule.id, says)
    below: list[RenderableType] = [rows] if rows.row_count else []
    for v in report.violations:
        fix = Table(box=None, show_header=False, pad_edge=False)
        fix.add_row(MARKS[v.severity], Text(v.rule, "bold"))
        for word, text in (("expected", v.expected), ("found", v.actual), ("fix", v.fix)):
            fix.add_row("", Text(word, "dim"), Text(text))
        below += [fix, Text()]
    if report.waiting:
        what = f"Checked once these errors are fixed: {', '.join(report.waiting)}."
        below += [Text(what, "dim"), Text()]
    errors = sum(v.severity == "error" for v in report.violations)
    counts = [(kept, "rule kept", "rules kept"), (errors, "error", "errors")]
    counts += [(len(report.violations) - errors, "warning", "warnings")]
    counts += [(len(report.unchecked), "rule not checked", "rules not checked")]
    counts += [(len(report.ignored), "rule ignored", "rules ignored")]
    last = [f"{n} {one if n == 1 else many}" for n, one, many in counts if n or one == "rule kept"]
    return Group(*below, Text(f"{', '.join(last)}, {report.seconds:.1f} s"))
