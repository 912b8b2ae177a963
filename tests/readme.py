"""Reads the code in the pages: for `.ci/run`, for test_newcomer.py and for test_docs.py.

Standard library only: `python3 tests/readme.py tests` must work before anything is installed.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
MARKS = {"scaffold": ("copier copy", " train"), "tests": ("venv", "pytest")}
BLOCK = re.compile(r"(?:^<!-- ([^\n]*?) -->\n)?^```(\w*)\n(.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """Code in a page.

    Attributes:
      language: what follows the opening fence.
      code: without the fences, and without prompts.
      comment: the HTML comment in the line above it; "" if there is none.
    """

    language: str
    code: str
    comment: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page's text, in their order."""
    return [
        Block(language, re.sub(r"^\$ ", "", code, flags=re.M), comment)
        for comment, language, code in BLOCK.findall(page)
    ]


def command(which: str) -> str:
    """The first shell block of README.md with all marks of `which`."""
    for block in blocks(README.read_text()):
        if block.language == "console" and all(mark in block.code for mark in MARKS[which]):
            return block.code.strip()
    raise SystemExit(f"README.md has no shell block with {' and '.join(MARKS[which])}.")


if __name__ == "__main__":
    print(command(sys.argv[1]))
