"""Makes the package that every emitted project gets importable as `kit`, and tells the score."""

import os
import sys
from pathlib import Path

import jax
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parents[1] / "template" / "src" / "{{package_name}}"))
# Hundreds of small programs are compiled here and run for moments: don't work hard on them. XLA
# reads its flags once; the projects that other tests run are to be compiled as always.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    jax.jit(lambda: 0)()
    del os.environ["XLA_FLAGS"]


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
