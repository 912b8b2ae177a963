"""The rules that Brax and its training loops rely on, one test each.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

import pytest

from mountain_car import config
from mountain_car.kit import RULES, Report, examine, tasks_in

TASKS = tasks_in(config)


@pytest.fixture(scope="module", params=list(TASKS))
def report(request: pytest.FixtureRequest) -> Report:
    return examine(TASKS[request.param])


@pytest.mark.parametrize("rule", [rule.id for rule in RULES if rule.severity == "error"])
def test_keeps(report: Report, rule: str) -> None:
    if rule in report.ignored:
        pytest.skip(f"config.py ignores it: {report.ignored[rule] or 'it is kept'}")
    broken = [str(v) for v in report.violations if v.rule == rule]
    assert not broken, "\n".join(broken)
    # A rule that was not checked is not kept. One that waits for a broken one fails with that.
    assert rule not in report.unchecked, report.unchecked[rule]
    if rule in report.waiting:
        pytest.skip("an error that another test reports has to be fixed first")
