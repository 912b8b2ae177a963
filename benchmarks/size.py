"""Lines of emitted Python by part, and the files that name a kind of action.

    python benchmarks/size.py [REVISION ...]

Counts the vector, continuous project that the working tree creates, or that each revision does.
"""

import io
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import copier

ROOT = Path(__file__).parents[1]
PARTS = ("user", "kit without the checker", "checker", "generated", "tests from the template")


def main() -> None:
    revisions = sys.argv[1:] or [""]
    columns = [measure(revision) for revision in revisions]
    print("| | " + " | ".join(revision or "now" for revision in revisions) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(str(column[name]) for column in columns) + " |")


def measure(revision: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        source, project = Path(folder) / "template", Path(folder) / "project"
        tree = revision or git("stash", "create").strip() or "HEAD"
        archive = git("archive", "--format=tar", tree, text=False)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(source, filter="data")
        copier.run_copy(str(source), project, defaults=True, quiet=True, settings=copier.Settings())
        lines = dict.fromkeys(PARTS, 0)
        for path in project.rglob("*.py"):
            lines[part_of(path, project)] += len(path.read_text().splitlines())
        naming = [
            path
            for path in (*source.glob("*.yml"), *source.glob("*.jinja"), *source.rglob("*/*"))
            if path.is_file()
            and path.relative_to(source).parts[0] in ("copier.yml", "questions", "template")
            and re.search(r"discrete", path.read_text(), re.I)
        ]
    total = sum(lines.values())
    return lines | {"all": total, "files of the template that name an action kind": len(naming)}


def part_of(path: Path, project: Path) -> str:
    name = path.relative_to(project).as_posix()
    if "Yours:" in path.read_text()[:300]:
        return "user"
    if re.search(r"kit/check", name):
        return "checker"
    if "/kit/" in name:
        return "kit without the checker"
    return "tests from the template" if name.startswith("tests/") else "generated"


def git(*command: str, text: bool = True):
    return subprocess.run(
        ["git", *command], cwd=ROOT, check=True, capture_output=True, text=text
    ).stdout


if __name__ == "__main__":
    main()
