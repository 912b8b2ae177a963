"""Two projects as the template makes them, kept so that a change to it shows in its diff.

Only what Jinja had a hand in is kept: all else is the template's own, file by file. And of the
second project, only what is not as in the first. After a change

    pytest tests/test_golden.py --rewrite

writes them anew, for `git diff` to show.
"""

import difflib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from projects import Render

GOLDEN = Path(__file__).parent / "golden"
KINDS: dict[str, dict[str, Any]] = {
    "vector-continuous": {},
    "hybrid-discrete": {"observation": "hybrid", "actions": "discrete"},
}
FIRST = "vector-continuous"


@pytest.mark.parametrize("kind", KINDS)
def test_made_again_it_is_the_same(
    render: Render, template: Path, kind: str, pytestconfig: pytest.Config
) -> None:
    kept, made = GOLDEN / kind, made_by_jinja(render(**KINDS[kind]), template / "template")
    if kind != FIRST:
        first = made_by_jinja(render(**KINDS[FIRST]), template / "template")
        made = {name: text for name, text in made.items() if text != first.get(name)}
    if pytestconfig.getoption("rewrite"):
        shutil.rmtree(kept, ignore_errors=True)
        for name, text in made.items():
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            (kept / name).write_text(text)
    golden = {
        path.relative_to(kept).as_posix(): path.read_text()
        for path in kept.rglob("*")
        if path.is_file() and "_cache" not in str(path.relative_to(kept))
    }
    diff: list[str] = []
    for name in sorted(golden.keys() | made.keys()):
        old, new = (files.get(name, "").splitlines() for files in (golden, made))
        diff += difflib.unified_diff(old, new, f"kept/{name}", f"made/{name}", lineterm="")
    if diff:
        pytest.fail("\n".join([*diff, "", "As meant? Then --rewrite."]), pytrace=False)


def made_by_jinja(project: Path, template: Path) -> dict[str, str]:
    """The project's files that are not files of the template, as text."""
    plain = {path.read_bytes() for path in template.rglob("*") if path.is_file()}
    made = {
        path.relative_to(project).as_posix(): path.read_text()
        for path in project.rglob("*")
        if path.is_file() and path.read_bytes() not in plain
    }
    # Where the template lies is another place each time.
    answers = ".copier-answers.yml"
    made[answers] = re.sub(r"^_(src_path|commit): .*\n", "", made[answers], flags=re.M)
    return made
