"""Makes the package that every emitted project gets importable as `kit`, and tells the score."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parents[1] / "template" / "src" / "{{package_name}}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for test, what in (
        ("test_defect_is_caught", "planted defects caught by the right rule"),
        ("environment_passes", "correct environments passed"),
    ):
        passed, failed = (
            sum(test in report.nodeid for report in terminalreporter.stats.get(outcome, ()))
            for outcome in ("passed", "failed")
        )
        if passed + failed:
            terminalreporter.write_line(f"{what}: {passed} / {passed + failed}")
