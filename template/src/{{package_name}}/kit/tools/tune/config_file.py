"""Changes of the settings in config.py, made in its text so that everything else stays."""

import ast
import io
import itertools
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from ...run import files


def write(path: Path, name: str, changed: Mapping[str, Any]) -> bool:
    """Changes keyword arguments of a task's `PPOConfig(...)` in config.py, and nothing else.

    `changed` holds plain Python values, by name.

    Returns:
      Whether it was written; not where the settings are not a `PPOConfig(...)` in `Task(...)`.

    Raises:
      FileError: the file can't be written.
    """
    source = path.read_bytes()
    call = _settings_call(source, name)
    if call is None:
        return False
    starts = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]

    def span(node: Any) -> tuple[int, int]:
        return (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,
        )

    values = {keyword.arg: keyword.value for keyword in call.keywords}
    edits = [(*span(values[key]), repr(value)) for key, value in changed.items() if key in values]
    if added := [f"{key}={value!r}" for key, value in changed.items() if key not in values]:
        edits += _insertions(source, *span(call), added)
    for start, end, text in sorted(edits, reverse=True):  # so that places before stay right
        source = source[:start] + text.encode() + source[end:]
    files.write(path.resolve(), source)
    return True


def _settings_call(source: bytes, name: str) -> ast.Call | None:
    """The `PPOConfig(...)` of `name = Task(...)`; None if it isn't written like that."""
    try:
        source.decode()  # places are counted in UTF-8
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    task: ast.expr | None = None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            task = getattr(node, "value", None)
    if not _is_call(task, "Task"):
        return None
    settings = dict(enumerate(task.args)).get(1)
    for keyword in task.keywords:
        settings = keyword.value if keyword.arg == "settings" else settings
    if not _is_call(settings, "PPOConfig") or len(settings.args) > 1:
        return None
    unpacks = any(keyword.arg is None for keyword in settings.keywords)
    unpacks |= any(isinstance(arg, ast.Starred) for arg in settings.args)
    return None if unpacks else settings


def _is_call(node: ast.expr | None, name: str) -> TypeGuard[ast.Call]:
    """Whether it is `name(...)` or `module.name(...)`."""
    function = getattr(node, "func", None)
    return name in (getattr(function, "id", None), getattr(function, "attr", None))


def _insertions(
    source: bytes, start: int, end: int, arguments: Sequence[str]
) -> list[tuple[int, int, str]]:
    """Where a call gets more arguments, as (start, end, text)."""
    rows = source[start:end].splitlines(keepends=True)

    def place(row: int, column: int) -> int:
        return (
            start + sum(map(len, rows[: row - 1])) + len(rows[row - 1].decode()[:column].encode())
        )

    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
    tokens = tokenize.tokenize(io.BytesIO(source[start:end]).readline)
    *_, last, closing = (token for token in tokens if token.type not in blank)
    comma = "" if last.string in "(," else ","
    after = place(*last.end)
    if closing.start[0] == last.end[0]:
        space = "" if last.string == "(" else " "
        text = f"{comma}{space}{', '.join(arguments)}{',' if last.string == ',' else ''}"
        return [(after, after, text)]
    # The parenthesis has a line of its own, so each argument gets one too.
    row = rows[closing.start[0] - 1].decode()
    indent = row[: closing.start[1]] + "    "
    newline = "\r\n" if rows[0].endswith(b"\r\n") else "\n"
    before = place(closing.start[0], 0)
    text = "".join(f"{indent}{argument},{newline}" for argument in arguments)
    return [(after, after, comma), (before, before, text)]
