"""Reads the commands in README.md, for `.ci/run` and test_newcomer.py to run them as printed.

Standard library only: `python3 tests/readme.py tests` must work before anything is installed.
"""

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
MARKS = {"scaffold": ("copier copy", " train"), "tests": ("venv", "pytest")}


def command(which: str) -> str:
    """The first shell block of README.md with all marks of `which`, without prompts."""
    blocks = re.findall(r"^```(?:console|sh|bash)\n(.*?)^```", README.read_text(), re.M | re.S)
    for block in blocks:
        if all(mark in block for mark in MARKS[which]):
            return re.sub(r"^\$ ", "", block, flags=re.M).strip()
    raise SystemExit(f"README.md has no shell block with {' and '.join(MARKS[which])}.")


if __name__ == "__main__":
    print(command(sys.argv[1]))
