"""`check MODULE:NAME`: which environment a text names."""

from pathlib import Path

import pytest
from kit import UsageError, cli, examine
from kit.check.foreign import maker_of


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, which is not a package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    (tmp_path / "mine.py").write_text(
        "class Made:\n    def make(*args, **kwargs):\n        return args, kwargs\nNUMBER = 1\n"
    )
    (tmp_path / "broken.py").write_text("import not_installed\n")
    return "mine"


@pytest.mark.usefixtures("module")
def test_a_call_has_literal_arguments() -> None:
    assert maker_of("mine:Made.make")() == ((), {})
    assert maker_of("mine:Made.make('ant', (1, 2), size={'a': -1})")() == (
        ("ant", (1, 2)),
        {"size": {"a": -1}},
    )


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mine:Mad", "mine has no Mad: did you mean Made?"),
        ("mine:Made.mak()", "mine has no Made.mak: did you mean make?"),
        ("mine:NUMBER", "mine:NUMBER is 1: name a class or a function"),
        ("mine:", "mine: can't be read: name a class or a function, MODULE:NAME"),
        (":Made", ":Made can't be read"),
        ("mine:Made(NUMBER)", "can't be read"),
        ("mine:Made(", "can't be read"),
        ("mine:Made()()", "can't be read"),
        ("mine:Made; NUMBER", "can't be read"),
        ("min:Made", "min can't be imported: install min, or run this in its folder."),
        ("broken:Made", "broken can't be imported: install not_installed, or run"),
    ],
)
def test_what_is_not_there_is_said(text: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        maker_of(text)
    assert says in str(error.value)


def test_what_is_called_raises() -> None:
    found = examine(maker_of("kit:examine()")).violations[0]
    assert found.rule == "is-made"
    assert "examine() missing 1 required positional argument" in found.actual
    assert "foreign.py" not in f"{found.actual}{found.fix}"


def test_no_project_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main("check-it", "no.config", ["check", "kit.check.foreign:FromGymnax(1, 2)"])
    assert left.value.code == 1
    assert "is-made" in capsys.readouterr().out
