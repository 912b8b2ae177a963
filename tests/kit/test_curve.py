"""Learning curves, and the statistics of several seeds."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.run import curve, statistics
from PIL import Image


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([5], 5),
        ([1, 2, 9], 4),  # a quarter of 3, rounded down, is none
        ([100, 1, 2, 3], 2.5),
        ([-1000, 1, 2, 3, 4, 5, 6, 1000], 3.5),
        ([0, 0, 1, 2, 3, 4, 5, 9, 9], 3),  # two of nine at each end
        ([[8, 1], [2, 7], [3, 6], [4, 5]], 4.5),  # runs x tasks, all alike
    ],
)
def test_interquartile_mean(scores: Any, mean: float) -> None:
    assert statistics.interquartile_mean(scores) == pytest.approx(mean)


def test_the_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    samples = np.random.default_rng(1).normal(3, 2, size=(300, 16))
    intervals = [statistics.bootstrap_interval(scores, resamples=500) for scores in samples]
    covered = np.mean([low <= 3 <= high for low, high in intervals])
    assert 0.88 < covered < 0.98
    narrow = [statistics.bootstrap_interval(x, resamples=500, confidence=0.5) for x in samples]
    assert 0.4 < np.mean([low <= 3 <= high for low, high in narrow]) < 0.6


def test_tasks_are_resampled_each_by_itself() -> None:
    """Were runs drawn as a whole, opposite tasks would cancel out."""
    a = np.arange(8.0)
    low, high = statistics.bootstrap_interval(np.stack([a, -a], axis=1))
    assert low < -0.5 < 0.5 < high


def test_the_same_scores_give_the_same_interval() -> None:
    assert statistics.bootstrap_interval([1, 2, 3]) == statistics.bootstrap_interval([1, 2, 3])
    assert statistics.bootstrap_interval([4, 4]) == (4, 4)


def row(steps: int, seed: int, mean: float, spread: float = 1.0) -> dict[str, float]:
    return {
        "steps": steps,
        "seed": seed,
        "eval/episode_reward": mean,
        "eval/episode_reward_std": spread,
        "eval/avg_episode_length": 10.0,
        "eval/time_limit_reached": 1.0,
    }


def write(run: Path, rows: list[dict[str, float]]) -> Path:
    run.mkdir()
    settings = {"episode_length": 10, "num_seeds": 1 + max(int(x["seed"]) for x in rows)}
    config = {"num_devices": 1, "observation": [2], "versions": {}, "settings": settings}
    config |= dict.fromkeys(("task", "action_space", "source", "networks", "device"), "")
    (run / "config.json").write_text(json.dumps(config))
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
    return run


def drawn(run: Path) -> np.ndarray:
    with Image.open(run / "learning_curve.png") as image:
        return np.asarray(image.convert("RGB"), int)


@pytest.mark.parametrize("num_seeds", [1, 5])
def test_a_curve_is_drawn(tmp_path: Path, num_seeds: int) -> None:
    rows = [
        row(steps, seed, steps / 1000 + seed**2, 0.3) | {"training/episode_reward": 2.0}
        for steps in range(0, 5000, 1000)
        for seed in range(num_seeds)
    ]
    curve.draw(write(tmp_path / "run", rows))
    image = drawn(tmp_path / "run")
    red, green, blue = np.moveaxis(image, -1, 0)
    assert ((blue > 150) & (red < 60)).sum() > 500  # the blue line
    orange = (red > 230) & (blue < 60) & (green > 100)
    assert (orange.sum() > 100) == (num_seeds > 1)  # the median
    green_alone = (green > 130) & (red < 80) & (blue < 80)
    assert green_alone.sum() > 100  # training episodes


def test_each_of_up_to_six_metrics_has_a_panel(tmp_path: Path) -> None:
    heights = []
    for count in (0, 1, 3, 4, 6, 7):
        own = {f"eval/episode_term_{n} [/] $\\frac$ {'x' * 60}": float(n) for n in range(count)}
        rows = [row(steps, 0, 1.0) | own for steps in (0, 10)]
        curve.draw(write(tmp_path / str(count), rows))
        heights.append(len(drawn(tmp_path / str(count))))
    assert heights[0] < heights[1] == heights[2] < heights[3] == heights[4] == heights[5]


@pytest.mark.parametrize(
    "name",
    ["$\\frac$", "$x", "a [] _{", "曲線 \N{FIRE}", "tab\tand\x1b[31m", "x" * 200, "a\udcff"],
)
def test_any_folder_name_will_do(
    tmp_path: Path, name: str, recwarn: pytest.WarningsRecorder
) -> None:
    curve.draw(write(tmp_path / name, [row(0, 0, 1.0), row(10, 0, 2.0)]))
    assert drawn(tmp_path / name).std() > 0
    assert not recwarn.list


@pytest.mark.parametrize(
    "rows",
    [
        [row(0, 0, 1.0)],
        [row(0, 0, 1.0), row(0, 1, 2.0)],
        [row(0, 0, 1.0), row(0, 1, 2.0), row(10, 1, 3.0), row(20, 0, 3.0)],
        [row(0, 0, 1.0), row(10, 0, math.nan), row(20, 0, math.inf), row(30, 0, 2.0)],
        [row(0, 0, 1.0), row(10, 0, 1.0, math.nan)],
        [row(0, 0, -3e38), row(10, 0, 3e38, 3e38)],
        [row(0, 0, 1.0, 1e308), row(10, 0, 1e308)],
        [row(-5, 0, 1.0), row(10**18, 0, 2.0)],
    ],
    ids=[
        *("one row", "one row of two seeds", "missing rows", "not finite"),
        *("no spread", "huge", "edited", "odd steps"),
    ],
)
def test_a_curve_is_drawn_from_few_or_odd_rows(
    tmp_path: Path, rows: list[dict[str, float]], recwarn: pytest.WarningsRecorder
) -> None:
    curve.draw(write(tmp_path / "run", rows))
    assert drawn(tmp_path / "run").std() > 0
    assert not recwarn.list


def test_without_evaluations_nothing_is_drawn(tmp_path: Path) -> None:
    curve.draw(write(tmp_path / "run", [row(0, 0, math.nan)]))
    assert not (tmp_path / "run" / "learning_curve.png").exists()


def test_a_link_is_replaced_rather_than_followed(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [row(0, 0, 1.0), row(10, 0, 2.0)])
    (tmp_path / "other").write_text("kept")
    (run / "learning_curve.png").symlink_to(tmp_path / "other")
    curve.draw(run)
    assert (tmp_path / "other").read_text() == "kept"
    assert drawn(run).std() > 0


# One process for both, because importing the kit takes seconds.
MATPLOTLIB_LATE = """
import sys
from pathlib import Path
from kit.run import curve, display
late = [name for name in ("matplotlib", "tensorboardX", "wandb") if name in sys.modules]
assert not late, f"{late} should be imported only when used"
curve.draw(Path(sys.argv[1]))
assert "matplotlib.pyplot" not in sys.modules
"""


@pytest.mark.long
def test_a_nonsensical_mplbackend_and_imports_only_when_used(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [row(0, 0, 1.0), row(10, 0, 2.0)])
    path = str(Path(curve.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MATPLOTLIB_LATE, str(run)],
        env={**os.environ, "MPLBACKEND": "nonsense", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert drawn(run).std() > 0
