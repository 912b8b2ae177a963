"""How the kit is built: one door, rooms whose imports go one way, and nothing large."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KIT = ROOT / "template" / "src" / "{{package_name}}" / "kit"
FLOORS = [
    {"errors", "bounds"},
    {"env"},
    {"ppo", "trace"},
    {"run", "check"},
    {"tools", "flags"},
    {"cli"},
]
MOST_LINES, MOST_OF_A_FUNCTION = 400, 80


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(KIT.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def imported(path: Path, tree: ast.Module) -> Iterator[tuple[str, ...]]:
    """The modules of the kit that a module imports, as paths from the kit's folder."""
    here = path.relative_to(KIT).with_suffix("").parts
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            name = (*base, *(node.module or "").split(".")) if node.module else base
            if node.module:
                yield name
            elif base:  # else through the door
                yield from ((*base, alias.name) for alias in node.names)


def floor(module: tuple[str, ...]) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if module[0] in rooms)


def room(module: tuple[str, ...]) -> tuple[str, ...]:
    """A tool is a room of its own."""
    return module[:2] if module[0] == "tools" else module[:1]


def test_imports_between_rooms_go_one_way() -> None:
    for path, tree in modules():
        here = path.relative_to(KIT).with_suffix("").parts
        if here == ("__init__",):
            continue  # the door
        for there in imported(path, tree):
            ok = floor(there) < floor(here) or room(there) == room(here)
            ok |= floor(here) == 0 == floor(there)
            assert ok, f"{'/'.join(here)} imports {'/'.join(there)}"


def test_the_door_lists_each_name_once_and_where_it_is() -> None:
    source = (KIT / "__init__.py").read_text()
    (names,) = re.findall(r"^_NAMES = (\{.*?^\})", source, re.M | re.S)
    listed = re.findall(r"^    from \.(\S+) import (\w+) as (\w+)(  # .*)?$", source, re.M)
    assert all(name == alias and says for _, name, alias, says in listed)
    by_module: dict[str, list[str]] = {}
    for module, name, _, _ in listed:
        by_module.setdefault(module, []).append(name)
    assert {module: list(found) for module, found in ast.literal_eval(names).items()} == by_module


def outside() -> Iterator[Path]:
    """What is not the kit's: files of projects, examples and documents."""
    for folder in ("template", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "kit" not in path.parts and "_cache" not in str(path):
                yield path
    yield from (ROOT / "docs").glob("*.md")
    yield ROOT / "README.md"


@pytest.mark.parametrize("path", list(outside()), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_outside_imports_deeper_than_the_door(path: Path) -> None:
    if path.suffix in (".png", ".gif"):
        return
    deeper = re.findall(r"(?:from|import) \S*\bkit\.\S+.*", path.read_text())
    assert not deeper


def test_modules_and_functions_are_small() -> None:
    for path, tree in modules():
        lines = path.read_text().count("\n")
        assert lines <= MOST_LINES, f"{path.relative_to(KIT)} has {lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                where = f"{path.relative_to(KIT)}:{node.lineno}"
                assert length <= MOST_OF_A_FUNCTION, f"{where} {node.name} has {length} lines"
