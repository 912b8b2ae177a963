"""Makes the package that every emitted project gets importable as `kit`."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [
    str(TESTS.parent / "template" / "src" / "{{package_name}}"),
    str(TESTS / "check"),  # bases.py
    str(TESTS / "tasks"),
]
