"""The file in which a search is kept, whatever happens to it."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.errors import UsageError
from kit.tools.tune import journal
from kit.tools.tune.journal import Journal
from kit.tools.tune.ladder import RANGES, Ladder, Structure, saved
from kit.tools.tune.trainer import Curves

STRUCTURES = [Structure("large", True, True), Structure("small", False, False)]


def empty() -> Ladder:
    return Ladder(STRUCTURES, 4, 0, None)


def curves(members: int, steps: int) -> dict[str, Any]:
    returns = np.random.default_rng(members).normal(size=(2, members))
    return saved(Curves(np.array([steps // 2, steps]), returns))


RECORDS: list[dict[str, Any]] = [
    {"num_timesteps": 640},
    {"own": curves(4, 640)},
    {"own": curves(4, 640)},
    {"structure": STRUCTURES[0], "numbers": [{x: y[1] for x, y in RANGES.items()}] * 4},
    {"round": 0, "found": curves(4, 320), "go_on": [2]},
    {"round": 0, "found": curves(4, 640), "go_on": [2]},
    {"structure": STRUCTURES[1], "numbers": [{x: y[0] for x, y in RANGES.items()}] * 4},
    {"round": 1, "found": curves(4, 320), "go_on": []},
    {"round": 0, "found": curves(4, 640), "go_on": []},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "it.jsonl"
    made = Journal(path, empty().add)
    made.begin()
    for record in RECORDS:
        made.append(record)
    return path


def read(path: Path) -> list[Any]:
    """The records, taken by the ladder too."""
    ladder, found = empty(), []

    def replay(record: Any) -> None:
        ladder.add(record)
        found.append(record)

    Journal(path, replay)
    ladder.results()
    ladder.structure(())
    return found


EXPECTED = json.loads(json.dumps(RECORDS))


def test_what_is_appended_is_read_again(path: Path) -> None:
    assert read(path) == EXPECTED
    again = Journal(path, empty().add)
    again.begin()
    again.append({"own": curves(4, 640)})
    assert len(read(path)) == len(RECORDS) + 1


def test_a_last_line_that_was_cut_short_is_dropped(path: Path) -> None:
    data = path.read_bytes()
    for size in range(len(data) - 1, 0, -7):
        path.write_bytes(data[:size])
        assert read(path) == EXPECTED[: data[:size].count(b"\n")]
    again = Journal(path, empty().add)
    assert again.torn
    again.begin()
    again.append(RECORDS[0])
    assert read(path)[-1:] == RECORDS[:1]


def flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) - 1)  # the last newline: as if it were cut short
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def remove(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) - 2)
    return data[:start] + data[rng.randrange(start + 1, len(data) - 1) :]


def insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    new = rng.choice([b"\n", b"\0", b"{}\n", rng.randbytes(rng.randrange(1, 99))])
    return data[:place] + new + data[place:]


def rearrange(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    first, second = sorted(rng.sample(range(len(lines)), 2))
    changed = rng.choice([lines[:first] + lines[first + 1 :], lines[: second + 1] + lines[first:]])
    return b"".join(changed)


@pytest.mark.parametrize("damage", [flip, remove, insert, rearrange])
def test_damage_ends_in_a_sentence(
    path: Path, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    rng, data = random.Random(0), path.read_bytes()
    for _ in range(300):
        damaged = damage(data, rng)
        path.write_bytes(damaged)
        try:
            found, said = read(path), ""
        except UsageError as error:
            found, said = [], str(error)
        # Or what is left is the first part of what was written.
        assert "is damaged in line" in said or found == EXPECTED[: len(found)] != []
        assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", "{", "{}", '"a"', "9" * 5000, "\x00\ufffe"),
        '{"num_timesteps": 1e3}',
        '{"own": null}',
        '{"own": {"steps": [1, 2], "returns": [[1], [1, 2]]}}',
        '{"structure": ["large", true, true], "numbers": 3}',
        '{"round": 9, "found": {"steps": [640], "returns": [[1]]}, "go_on": []}',
    ],
)
def test_what_no_search_writes_ends_in_a_sentence(path: Path, text: str) -> None:
    made = Journal(path, empty().add)
    with path.open("ab") as file:
        file.write(made._line(text.encode()))
    with pytest.raises(UsageError, match=f"is damaged in line {len(RECORDS) + 1}: restore it"):
        read(path)


def test_another_search_under_its_name_is_refused(path: Path) -> None:
    other = path.rename(path.with_name("other.jsonl"))
    with pytest.raises(UsageError, match="is damaged in line 1:"):
        read(other)


def test_a_file_that_can_not_be_a_journal_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        read(tmp_path)
    monkeypatch.setattr(journal, "MAX_BYTES", 1000)
    with pytest.raises(UsageError, match="more than the 1,000 bytes that are expected"):
        read(path)
