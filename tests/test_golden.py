"""Two projects, kept in tests/golden so that a commit shows what it changes in projects.

Kept is what Jinja changes: all other files are copies of the template's. Of the second project only
the files that differ from the first one are kept. After a change to the template

    pytest tests/test_golden.py --rewrite

rewrites them, and `git diff` shows the difference.
"""

import difflib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from projects import Render

GOLDEN = Path(__file__).parent / "golden"
FIRST: dict[str, Any] = {}
SECOND: dict[str, Any] = {"observation": "hybrid", "actions": "multi_discrete"}


def test_the_golden_projects(render: Render, template: Path, pytestconfig: pytest.Config) -> None:
    first, second = (
        rendered(render(**answers), template / "template") for answers in (FIRST, SECOND)
    )
    second = {name: text for name, text in second.items() if text != first.get(name)}
    made = {
        **{f"vector-continuous/{name}": text for name, text in first.items()},
        **{f"hybrid-multi_discrete/{name}": text for name, text in second.items()},
    }
    if pytestconfig.getoption("rewrite"):
        shutil.rmtree(GOLDEN, ignore_errors=True)
        for name, text in made.items():
            (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / name).write_text(text)
    kept = {
        path.relative_to(GOLDEN).as_posix(): path.read_text()
        for path in GOLDEN.rglob("*")
        if path.is_file() and "_cache" not in str(path.relative_to(GOLDEN))
    }
    diff: list[str] = []
    for name in sorted(kept.keys() | made.keys()):
        old, new = (files.get(name, "").splitlines() for files in (kept, made))
        diff += difflib.unified_diff(old, new, f"kept/{name}", f"made/{name}", lineterm="")
    if diff:
        pytest.fail("\n".join([*diff, "", "Is this right? Then run it with --rewrite."]), False)


def rendered(project: Path, template: Path) -> dict[str, str]:
    """The files of a project that are not copies of the template's, without LICENSE."""
    plain = {path.read_bytes() for path in template.rglob("*") if path.is_file()}
    texts = {
        path.relative_to(project).as_posix(): path.read_text()
        for path in project.rglob("*")
        if path.is_file() and path.read_bytes() not in plain and path.name != "LICENSE"
    }
    # The template's folder is another one each time.
    answers = ".copier-answers.yml"
    texts[answers] = re.sub(r"^_(src_path|commit): .*\n", "", texts[answers], flags=re.M)
    return texts
