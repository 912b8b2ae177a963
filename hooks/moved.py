"""Moves a user's changes in a renamed file of the template into the file with the new name.

Without it an update would delete the old file together with the changes. An entry under
`_migrations` in copier.yml runs it after the update:

    - version: v0.2.0
      command:
        - "{{ _copier_python }}"
        - "{{ _copier_conf.src_path }}/hooks/moved.py"
        - "{{ package_name }}"
        - kit/old.py
        - kit/new.py

Both names are relative to the package, and neither file may contain Jinja. Needs only Python and
git. A second run changes nothing.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent


def read(folder: Path, revision: str, name: str) -> bytes | None:
    """The file `name` in a commit, or None if the commit has no such file."""
    show = subprocess.run(
        ["git", "show", f"{revision}:{name}"], cwd=folder, capture_output=True, check=False
    )
    return None if show.returncode else show.stdout


def move(project: Path, package: str, old: str, new: str, version: str) -> None:
    """Merges the changes that the project's last commit has in `old` into `new`.

    Args:
      project: the project's folder, after the update.
      package: the folder under `src/`.
      old: the file's name in `version`, relative to the package.
      new: its name now.
      version: the template's tag that the project was at before the update.
    """
    target = project / "src" / package / new
    mine = read(project, "HEAD", f"./src/{package}/{old}")
    original = read(TEMPLATE, version, "template/src/{{package_name}}/" + old)
    if mine is None or mine == original or not target.exists():
        return
    if original is None:
        print(f"{old} is {new} now. Your version of it: git show HEAD:./src/{package}/{old}")
        return
    with tempfile.TemporaryDirectory() as folder:
        my_file, original_file = Path(folder, "mine"), Path(folder, "original")
        my_file.write_bytes(mine)
        original_file.write_bytes(original)
        labels = ["-Lafter updating", "-Llast update", "-Lbefore updating"]
        merge = subprocess.run(
            ["git", "merge-file", *labels, target, original_file, my_file], check=False
        )
    if merge.returncode:
        print(f"Your changes in {old} conflict with {new}, where both sides are marked.")


if __name__ == "__main__":
    _, package, old, new = sys.argv
    if not package.isidentifier():  # from .copier-answers.yml, where it may be anything
        sys.exit(f"package_name in .copier-answers.yml is no name of a package: {package!a}")
    move(Path.cwd(), package, old, new, os.environ["VERSION_FROM"])
