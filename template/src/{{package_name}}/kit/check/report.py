"""A report as a table. From the template: changes of yours are kept, `copier update` merges new
versions in.
"""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .engine import Report
from .rules import RULES

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

    fixes: list[RenderableType] = []
    for v in report.violations:
        fix = Table(box=None, show_header=False, pad_edge=False)
        fix.add_row(MARKS[v.severity], Text(v.rule, "bold"))
        for word, text in (("expected", v.expected), ("found", v.actual), ("fix", v.fix)):
            fix.add_row("", Text(word, "dim"), Text(text))
        fixes += [Text(), fix]
    if report.waiting:
        what = f"Checked once these errors are fixed: {', '.join(report.waiting)}."
        fixes += [Text(), Text(what, "dim")]
    errors = sum(v.severity == "error" for v in report.violations)
    counts = [(errors, "error", ""), (len(report.violations) - errors, "warning", "")]
    counts += [(len(report.unchecked), "rule", " not checked")] * bool(report.unchecked)
    last = ", ".join(f"{n} {what}{'s' * (n != 1)}{more}" for n, what, more in counts)
    return Group(rules, *fixes, Text(), Text(f"{last}; {report.seconds:.1f} s"))
