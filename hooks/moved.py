"""Takes along what someone changed in a file of the template that has another name now.

An entry under `_migrations` in copier.yml runs it, once the update has brought the new file:

    - version: v0.2.0
      command:
        - "{{ _copier_python }}"
        - "{{ _copier_conf.src_path }}/hooks/moved.py"
        - "{{ package_name }}"
        - kit/old.py
        - kit/new.py

The names are those in the package's folder, of files without Jinja in them. Nothing here is
installed but Python and git. Running it again changes nothing.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent


def content(folder: Path, revision: str, name: str) -> bytes | None:
    """A file of a commit, or None where it has none of that name."""
    show = subprocess.run(
        ["git", "show", f"{revision}:{name}"], cwd=folder, capture_output=True, check=False
    )
    return None if show.returncode else show.stdout


def carry(project: Path, package: str, old: str, new: str, version: str) -> None:
    """Merges into `new` what the project's last commit had changed in `old`.

    Args:
      project: the project's folder, after the update.
      package: the folder under `src/`.
      old: the file's name in the package, in `version`.
      new: its name now.
      version: the tag of the template that the project was made with, or updated to, before.
    """
    path = project / "src" / package / new
    mine = content(project, "HEAD", f"./src/{package}/{old}")
    theirs = content(TEMPLATE, version, "template/src/{{package_name}}/" + old)
    if mine is None or mine == theirs or not path.exists():
        return
    if theirs is None:
        print(f"{new} was {old}. What you had changed there: git show HEAD:./src/{package}/{old}")
        return
    with tempfile.TemporaryDirectory() as folder:
        sides = [Path(folder, side) for side in ("mine", "theirs")]
        for side, text in zip(sides, (mine, theirs), strict=True):
            side.write_bytes(text)
        labels = ["-Lafter updating", "-Llast update", "-Lbefore updating"]
        merge = subprocess.run(
            ["git", "merge-file", *labels, path, sides[1], sides[0]], check=False
        )
    if merge.returncode:
        print(f"What you had changed in {old} collides with {new}, where both sides are marked.")


if __name__ == "__main__":
    _, package, old, new = sys.argv
    carry(Path.cwd(), package, old, new, os.environ["VERSION_FROM"])
