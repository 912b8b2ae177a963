"""The rules that Brax and its training rest on, a test each. The template's: not for editing."""

import pytest

from my_env import MyEnv, spec
from my_env.kit.check import RULES, Report, examine


@pytest.fixture(scope="module")
def report() -> Report:
    return examine(
        MyEnv(),
        episode_length=spec.EPISODE_LENGTH,
        actions=spec.ACTIONS,
    )


@pytest.mark.parametrize("rule", [rule.id for rule in RULES if rule.severity == "error"])
def test_keeps(report: Report, rule: str) -> None:
    broken = [str(v) for v in report.violations if v.rule == rule]
    assert not broken, "\n".join(broken)
    if rule in report.unchecked:
        pytest.skip(report.unchecked[rule])
