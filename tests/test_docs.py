"""The commands and the Python of all pages, run in order in projects of the template.

A comment in the line above a block says what the test does with it:

    <!-- not run: why -->                 it needs a GPU, a network or much time
    <!-- run by: tests/test_x.py -->      another test runs it
    <!-- slow -->                         run by the tests marked as slow
    <!-- run with: 60 -> 0, a -> b -->    run with these replacements

A Python block whose first line names a file is that file. With ", at the end" or ", at the top" it
is added to the file. Training is short here: the settings in these files are made small.
"""

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
import readme
from projects import REPOSITORY, copy, snapshot
from readme import Block
from versions import commit

PAGES = [
    "README.md",
    "benchmarks/README.md",
    "benchmarks/LOG.md",
    "examples/README.md",
    "skills/copier-brax-env/SKILL.md",
    *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")),
]
QUICK = ("README.md", "docs/environment.md", "skills/copier-brax-env/SKILL.md")
EMITTED = ["README.md", "AGENTS.md"]
# Pages of a project have no such comments: the comment of each block with a certain text.
COMMENTS = {
    "pip install -e": "run by: tests/test_newcomer.py",
    "copier update": "run by: tests/test_update.py",
    "bench ": "slow",
    "diagnose RUN": "slow",
    "mypy": "run by: tests/test_render.py",
    "50000": "slow",
}
TINY = (
    "num_timesteps=64, num_envs=4, unroll_length=4, batch_size=4, num_minibatches=2, "
    "num_updates_per_batch=1, num_evals=2, num_eval_envs=4,"
)
FILE = re.compile(r"# ((?:src|tests)/\S+?)(, at the (?:end|top))?\n")
PROJECT_COMMAND = re.compile(r"(?:uv run (?:--extra \S+ )*|python -m )my[-_]env (.*)")
# What a page calls by name, and the test finds in its own environment.
TOOLS = """
uvx() { "$PYTHON" -m "$@"; }
copier() { "$PYTHON" -m copier "$@"; }
uv() {
    shift  # "run"
    while test "$1" = --extra; do shift 2; done
    command=${1//-/_}; shift
    "$PYTHON" -m "$command" "$@"
}
"""


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_each_block_says_what_the_test_does_with_it(page: str) -> None:
    for block in readme.blocks(text_of(page)):
        assert block.language in ("console", "python", "diff", "text"), block
        if block.comment.startswith("run by: "):
            (path,) = re.findall(r"tests/\S+\.py", block.comment)
            assert (REPOSITORY / path).is_file()
        elif block.comment.startswith("run with: "):
            assert all(old in block.code for old, _ in replacements(block)), block
        elif block.comment:
            assert block.comment == "slow" or block.comment.startswith("not run: "), block


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)
    for link in re.findall(r"\]\(((?!https?:)[^)\s]*)\)", text):
        path, _, anchor = unquote(link).partition("#")
        there = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        assert there.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.M)
            found = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in found, link


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [x if x in QUICK else pytest.param(x, marks=pytest.mark.long) for x in PAGES],
)
def test_blocks_run(page: str, reader: "Reader") -> None:
    for block in readme.blocks(text_of(page)):
        reader.follow(block, slow=False)


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if "<!-- slow -->" in text_of(page)])
def test_slow_blocks_run(page: str, reader: "Reader") -> None:
    for block in readme.blocks(text_of(page)):
        reader.follow(block, slow=True)


@pytest.mark.long
@pytest.mark.parametrize("page", EMITTED)
def test_the_emitted_pages_run(page: str, reader: "Reader") -> None:
    blocks = readme.blocks((reader.project / page).read_text())
    for block in blocks:
        comments = [comment for words, comment in COMMENTS.items() if words in block.code]
        reader.follow(replace(block, comment="".join(comments)), slow=False)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template's repository, as git has it."""
    clone = snapshot(tmp_path_factory.mktemp("clone") / "copier-brax-env")
    commit(clone)
    return clone


@pytest.fixture(scope="module")
def new(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of it."""
    return copy(clone, tmp_path_factory.mktemp("new") / "my-env")


@pytest.fixture
def reader(
    clone: Path, new: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Reader"]:
    project = shutil.copytree(new, tmp_path / "my-env")
    make_small(project / "src/my_env/config.py")
    commit(project)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.syspath_prepend(str(project / "src"))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "compiled"))
        patch.setenv("PYTHON", sys.executable)
        patch.setenv("PYTEST_ADDOPTS", "--collect-only --quiet -n 0")
        yield Reader(project, clone)
    forget()


def make_small(file: Path) -> None:
    file.write_text(re.sub(r"num_timesteps=[\d_]{4,},?", TINY, file.read_text()))


def forget() -> None:
    """Lets the next block import the project again."""
    for name in [name for name in sys.modules if name.split(".")[0] == "my_env"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def replacements(block: Block) -> list[tuple[str, str]]:
    pairs = block.comment.removeprefix("run with: ").split(", ")
    return [(old, new) for old, new in (pair.split(" -> ") for pair in pairs)]


class Reader:
    """Follows a page in a project.

    Attributes:
      project: its folder.
      template: the template's repository.
    """

    def __init__(self, project: Path, template: Path) -> None:
        self.project = project
        self.template = template

    def follow(self, block: Block, *, slow: bool) -> None:
        """Writes a block that is a file; runs another one if it is slow or not, as asked for."""
        if block.language == "text" or block.comment.startswith(("not run: ", "run by: ")):
            return
        code = block.code
        if block.comment.startswith("run with: "):
            for old, new in replacements(block):
                code = code.replace(old, new)
        if block.language == "diff":
            self.change(code)
        elif block.language == "python" and (file := FILE.match(code)):
            self.write(file, code)
        elif (block.comment == "slow") == slow:
            self.run(block.language, code)

    def write(self, file: re.Match[str], code: str) -> None:
        path, where = self.project / file[1], file[2]
        text = code[file.end() :]
        if where:
            before = path.read_text()
            first_import = before.index("\nfrom .") + 1
            top, rest = before[:first_import], before[first_import:]
            text = top + text + rest if where.endswith("top") else f"{before}\n{text}"
        path.write_text(text)
        if path.suffix == ".py":
            make_small(path)

    def change(self, code: str) -> None:
        """Replaces the lines of a diff that start with - by those that start with +."""
        file, *lines = code.splitlines()
        path = self.project / file.removeprefix("# ")
        old, new = ("".join(f"{line[1:]}\n" for line in lines if line[0] == sign) for sign in "-+")
        text = path.read_text()
        assert text.count(old) == 1, f"{path.name} has not these lines once:\n{old}"
        path.write_text(text.replace(old, new))

    def run(self, language: str, code: str) -> None:
        forget()
        code = re.sub(r"\bTEMPLATE\b", str(self.template), code)
        if "RUN" in code or "runs/..." in code:
            code = re.sub(r"\bRUN\b|runs/\.\.\.", str(self.newest_run()), code)
        if language == "python":
            exec(compile(code, "a block of the page", "exec"), {"__name__": "__main__"})
            return
        for line in re.sub(r" +#.*$", "", code.replace("\\\n", ""), flags=re.M).splitlines():
            if match := PROJECT_COMMAND.fullmatch(line):
                self.command(match[1])
            else:
                self.shell(line)

    def shell(self, line: str) -> None:
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", TOOLS + line],
            cwd=self.project,
            env=os.environ | {"PYTHONPATH": str(self.project / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, result.stdout

    def command(self, arguments: str) -> None:
        """A command of the project. `tune` and `replay` may find nothing."""
        forget()
        main = importlib.import_module("my_env.kit.cli").main
        code: str | int = 0
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                main("my-env", "my_env.config", shlex.split(arguments))
            except SystemExit as end:
                code = end.code or 0
        nothing = "Nothing was found" in said.getvalue() or arguments.startswith("replay")
        assert code == 0 or nothing, f"{arguments}: {said.getvalue()}"

    def newest_run(self) -> Path:
        runs = self.project / "runs"
        if not runs.exists():
            self.command("train")
        return max(runs.iterdir(), key=lambda path: path.stat().st_mtime).relative_to(self.project)
