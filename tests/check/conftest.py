"""Makes the package that every emitted project gets importable as `kit`, and tells the score."""

import os
import sys
from collections import Counter
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

SCORE: Counter[str] = Counter()


@pytest.fixture
def score() -> Counter[str]:
    """What the terminal shows at the end: planted, caught, correct, failed."""
    return SCORE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SCORE["planted"]:
        caught, planted = SCORE["caught"], SCORE["planted"]
        terminalreporter.write_line(
            f"planted defects caught by the right rule: {caught} / {planted}"
        )
    if SCORE["correct"]:
        passed = SCORE["correct"] - SCORE["failed"]
        terminalreporter.write_line(f"correct environments passed: {passed} / {SCORE['correct']}")
