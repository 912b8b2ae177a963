"""`--help` and refused arguments: readable, and answered without JAX."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kit.ppo.settings import PPOConfig
from kit.run.options import Options

PACKAGE = Path(__file__).parents[2] / "template" / "src" / "{{package_name}}"
ANSWERS = {"env_class": "Point", "package_name": "points", "project_name": "points"}
COMMANDS = ["check", "train", "tune", "play", "diagnose", "replay", "export", "bench"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package whose env.py and config.py can't be imported."""
    folder = tmp_path_factory.mktemp("project")
    package = folder / "points"
    package.mkdir()
    for name in ("__init__", "__main__"):
        text = (PACKAGE / f"{name}.py.jinja").read_text()
        for question, answer in ANSWERS.items():
            text = text.replace(f"{{{{ {question} }}}}", answer)
        (package / f"{name}.py").write_text(text)
    (package / "kit").symlink_to(PACKAGE / "kit")
    for name in ("env", "config"):
        (package / f"{name}.py").write_text("raise RuntimeError('not needed')\n")
    return folder


def run(project: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "points", *args],
        cwd=project,
        env=os.environ | {"COLUMNS": "100", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["train", "--no-such-flag"], 2),
        (["train", "--num-envs", "many"], 2),
        (["train", "--num-envs", "0"], 2),
        (["play"], 2),
        ([], 2),
    ],
)
def test_jax_and_brax_are_not_imported(project: Path, args: list[str], code: int) -> None:
    result = run(project, *args)
    assert result.returncode == code
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", result.stderr, re.M))
    assert "points.kit.cli" in imported
    assert not imported & {"jax", "brax", "flax", "numpy", "points.env", "points.config"}


def test_help_is_tidy(project: Path) -> None:
    listed = run(project, "--help").stdout
    for command in COMMANDS:
        (start,) = re.findall(rf"• {command} +(\S+ \S+ \S+)", listed)
        out = run(project, command, "--help").stdout
        assert f"\n\n{start}" in out
        assert "default: None" not in out
        # A text begins at the left; the indentation of the source is gone.
        description, *_ = out.split("╭─")
        assert not re.search("^ ", description, re.M)
    assert not re.search(r"^│ {16,}[^ │]", listed, re.M)


def test_each_setting_is_in_a_group(project: Path) -> None:
    out = run(project, "train", "--help").stdout
    titles = re.findall("╭─ (.*?) ─", out)
    groups = ["run", "batches", "loss", "observations", "evaluation", "devices"]
    assert titles == ["positional arguments", "options", *(f"{group} options" for group in groups)]
    for field in (*dataclasses.fields(PPOConfig), *dataclasses.fields(Options)):
        assert re.search(rf"^│ --{field.name.replace('_', '-')}\b", out, re.M), field.name
    flags = dict(zip(titles, out.split("╭─ ")[1:], strict=True))
    for group, flag in (("run", "resume"), ("loss", "gae-lambda"), ("devices", "coordinator")):
        assert f"--{flag} " in flags[f"{group} options"]
    assert "(default: 0.98)" in out
