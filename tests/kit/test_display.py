"""What a run shows and reports, and its early advice."""

import contextlib
import dataclasses
import importlib.machinery
import io
import math
import os
import re
import resource
import struct
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from kit.env.actions import ActionSpace, Continuous, Discrete, MultiDiscrete
from kit.errors import UsageError
from kit.run import display
from kit.run.advice import advice, few_updates
from kit.run.display import Display, Row
from kit.run.reports import Reporter, reporters
from PIL import Image
from rich.console import Console
from toys import TINY

VALUES = {"training/episode_reward": -412.34, "training/total_loss": 0.0123456}
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Stream(io.TextIOWrapper):
    """A terminal, or a file, of any encoding."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = True) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="\n")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


def console(stream: Stream, width: int = 120) -> Console:
    return Console(file=stream, width=width, _environ={"TERM": "xterm", "FORCE_COLOR": "1"})


def show(stream: Stream, width: int = 120) -> str:
    """What a whole run prints."""
    with Display(console(stream, width), 1_000_000) as shown:
        with shown.compiling():
            pass
        shown.say("Training into runs/[/] at :fire:")
        for steps in (100_000, 250_000):
            shown.progress(steps, 98_765.4, VALUES)
            shown._progress.refresh()
        shown.say("     250,000 steps   return -400.00 ± 20.00")
    return stream.text()


# ---- the display --------------------------------------------------------------------------------


def test_a_line_moves_on_a_terminal() -> None:
    text = ESCAPES.sub("", show(Stream()))
    assert "compiling 0 s" in text
    assert "Compiled in 0.0 s.\n" in text
    assert re.search(r" 10 %  100,000 steps  98,765 steps/s  return -412.34  loss 0.01235", text)
    assert re.search(r" 25 %  0:00:\d\d left  250,000 steps", text)
    assert "Training into runs/[/] at :fire:\n" in text


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_real_terminal_shows_the_line_and_keeps_its_cursor() -> None:
    terminal, end = os.openpty()
    with (
        open(end, "w", encoding="utf-8") as stream,
        Display(Console(file=stream, width=120, _environ={"TERM": "xterm"}), 100) as shown,
    ):
        for steps in (10, 25):
            shown.progress(steps, 1234.5, VALUES)
            shown._progress.refresh()
        shown.say("runs/[/] \x1b[8m")
    raw = b""
    with contextlib.suppress(OSError):  # raised at the end, because the other end is closed
        while piece := os.read(terminal, 2**16):  # a part of what was written
            raw += piece
    os.close(terminal)
    text = raw.decode()
    assert re.search(r" 25 %  0:00:\d\d left  25 steps  1,234 steps/s  return -412.34  loss", text)
    assert "\x1b[2K" in text  # the line before it is erased
    assert "runs/[/] \\x1b[8m\r\n" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_without_a_terminal_there_are_plain_lines_alone() -> None:
    expected = [
        "Compiling ...",
        "Compiled in 0.0 s.",
        "Training into runs/[/] at :fire:",
        "     250,000 steps   return -400.00 ± 20.00",
    ]
    assert show(Stream(terminal=False)).splitlines() == expected


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("terminal", [True, False])
def test_any_encoding_will_do(encoding: str, terminal: bool) -> None:
    for width in (20, 60, 120):  # the line is cut where the terminal is narrow
        text = show(Stream(encoding, terminal), width)
        assert f"return -400.00 {'+-' if encoding == 'ascii' else '±'} 20.00\n" in text
    stream = Stream(encoding, terminal)
    Display(console(stream), 1).say("runs/曲\udcff")
    assert stream.text() == ("runs/曲" if encoding == "utf-8" else "runs/\\u66f2") + "\\udcff\n"


def test_terminal_escapes_in_a_name_are_not_obeyed() -> None:
    stream = Stream()
    Display(console(stream), 1).say("runs/\x1b[31mred\rover\x07\u202e")
    assert stream.text() == "runs/\\x1b[31mred\\rover\\x07\\u202e\n"


def test_a_failed_compilation_is_not_said_to_be_done() -> None:
    stream = Stream()
    with (
        pytest.raises(KeyboardInterrupt),
        Display(console(stream), 1) as shown,
        shown.compiling(),
    ):
        raise KeyboardInterrupt
    assert "Compiled" not in stream.text()


def test_a_killed_process_leaves_the_cursor() -> None:
    stream = Stream()
    with Display(console(stream), 1):
        assert stream.text().rindex("\x1b[?25h") > stream.text().rindex("\x1b[?25l")


def test_the_time_left_of_a_resumed_run_is_that_of_its_own_speed() -> None:
    now = [0.0]
    stream = Stream()
    with Display(console(stream), 1000, steps=900) as shown:
        shown._progress.get_time = lambda: now[0]
        for steps in (910, 920, 930):
            now[0] += 1.0
            shown.progress(steps, 10.0, {})
        shown._progress.refresh()
    assert " 93 %  0:00:07 left" in stream.text()


def test_values_may_be_missing_or_not_finite() -> None:
    stream = Stream()
    with Display(console(stream), 1000) as shown:
        shown.progress(10, 5.0, {"training/episode_reward": math.nan})
        shown._progress.refresh()
    assert "10 steps  5 steps/s" in stream.text()
    assert "return" not in stream.text()


def test_advice_is_given_once() -> None:
    stream = Stream(terminal=False)
    with Display(console(stream), 1) as shown:
        shown.advise(["first"])
        shown.advise(["first", "second"])
        shown.advise(["second", "first"])
    assert stream.text() == "first\nsecond\n"


@pytest.mark.parametrize(
    ("x", "shown"),
    [
        *((0.0, "0.00"), (-0.0, "0.00"), (-412.345, "-412.35"), (0.1, "0.10")),
        *((-0.00123456, "-0.001235"), (1e-7, "1e-07"), (-37_600_000, "-3.76e+07")),
        *((math.nan, "nan"), (math.inf, "inf"), (np.float32(3e-39), "3e-39")),
    ],
)
def test_numbers_of_any_size_show_digits(x: float, shown: str) -> None:
    assert display.number(x) == shown


# ---- evaluations --------------------------------------------------------------------------------


def evaluation(**metrics: float) -> dict[str, float]:
    values = {"episode_reward": -3.0, "episode_reward_std": 0.5, "avg_episode_length": 8.0}
    values |= {f"episode_{name}": x for name, x in metrics.items()}
    return {"steps": 1000, "seed": 0, **{f"eval/{name}": x for name, x in values.items()}}


def test_the_environment_s_own_metrics_stand_beside_the_return() -> None:
    shown = display.evaluation_line([evaluation(distance=1.25, success=0.5)])
    assert re.search(
        r"^ +1,000 steps   return +-3.00 ± 0.50 .* distance 1.25   success 0.50$", shown
    )
    seeds = [evaluation(distance=1.0), evaluation(distance=2.0) | {"seed": 1}]
    assert display.evaluation_line(seeds).endswith("distance 1.50")


def test_of_many_metrics_success_alone_is_shown() -> None:
    many = {f"metric_{n}": float(n) for n in range(6)}
    assert "metric_5 5.00" in display.evaluation_line([evaluation(**many)])
    assert display.evaluation_line([evaluation(**many, success=0.5)]).endswith("success 0.50")
    assert "metric" not in display.evaluation_line([evaluation(**many, other=0.5)])


# ---- early advice -------------------------------------------------------------------------------


def test_few_updates_are_told_with_what_gives_more() -> None:
    few = dataclasses.replace(TINY, batch_size=64, num_timesteps=4000)  # 8 of 512 steps
    (text,) = few_updates(few, 1)
    assert text.startswith("Little can be learned in 8 updates: for 20 or more, try ")
    assert "--batch-size 26 or --num-timesteps 10240." in text
    assert dataclasses.replace(few, batch_size=26).num_updates >= 20
    assert dataclasses.replace(few, num_timesteps=10240).num_updates == 20
    # As many environments and devices as there are have to divide it.
    (text,) = few_updates(dataclasses.replace(few, num_envs=32), 1)
    assert "--batch-size 16 or" in text
    (text,) = few_updates(few, 4)
    assert "--batch-size 24 or" in text
    (text,) = few_updates(dataclasses.replace(few, num_timesteps=320), 1)
    assert "in 1 update: for 20 or more, try --batch-size 2 or --num-timesteps 10240." in text
    (text,) = few_updates(dataclasses.replace(few, num_timesteps=10), 1)
    assert text.endswith("try --num-timesteps 10240.")
    assert few_updates(dataclasses.replace(few, num_timesteps=20 * 512), 1) == []


def row(steps: int, **values: float) -> dict[str, float]:
    """An evaluation of episodes that end by themselves, with rewards that differ."""
    values = {
        "eval_episode_reward": 3.0,
        "eval_avg_episode_length": 5.0 + steps / 100,
        "eval_time_limit_reached": 0.2,
        **values,
    }
    if steps:
        values = {"training_reward_min": 0.0, "training_reward_max": 1.0, **values}
    return {
        "steps": steps,
        "seed": 0,
        **{name.replace("_", "/", 1): x for name, x in values.items()},
    }


def chunk(steps: int, **values: float) -> dict[str, float]:
    """The values of a few updates between evaluations."""
    return {
        "steps": steps,
        "seed": 0,
        **{f"training/{name}": x for name, x in values.items()},
    }


SUBJECTS = {
    "Nearly every episode was cut off": "limit",
    "The reward has been the same": "reward",
    "Some components of the observation": "scale",
    "The policy's entropy collapsed": "entropy",
    "Training episodes, whose actions are sampled": "sampled",
}
CONTINUOUS = Continuous(2)


def told(
    rows: Sequence[Row], space: ActionSpace = CONTINUOUS, statistics: Any = None, **settings: Any
) -> str:
    """What the advice is about."""
    config = dataclasses.replace(TINY, num_timesteps=1000, **settings)
    texts = advice(config, space, rows, statistics)
    return " ".join(
        subject for text in texts for start, subject in SUBJECTS.items() if text.startswith(start)
    )


def test_nothing_is_said_of_an_ordinary_run() -> None:
    assert told([]) == told([row(0)]) == told([row(0), row(100), row(500)]) == ""


def test_a_limit_that_most_episodes_reach_is_told_after_training_began() -> None:
    cut = {"eval_time_limit_reached": 0.99}
    assert told([row(0, **cut)]) == ""
    assert told([row(0, **cut), row(100, **cut)]) == "limit"
    assert told([row(0), row(100, **cut)]) == ""  # it has learnt not to fall
    assert told([row(0, **cut), row(100)]) == ""
    text = advice(TINY, Continuous(2), [row(0, **cut), row(100, **cut)])[0]
    assert "time limit of 8 steps" in text
    assert "--episode-length" in text


def test_a_task_without_an_end_of_its_own_needs_no_larger_limit() -> None:
    cut = {"eval_time_limit_reached": 1.0}
    assert told([row(0, **cut), row(100, **cut)]) == ""
    some = {"eval_time_limit_reached": 0.98}
    assert told([row(0, **cut), row(100, **some)]) == "limit"


def test_a_limit_that_training_episodes_do_not_reach_is_long_enough() -> None:
    cut = {"eval_time_limit_reached": 0.99}
    for length, is_told in ((8.0, True), (5.0, False)):
        later = row(100, **cut, training_episode_length=length)
        assert (told([row(0, **cut), later]) == "limit") == is_told


def corridor(
    steps: int, evaluated: float, sampled: float | None, std: float = 0.0
) -> dict[str, float]:
    """An evaluation, most of whose episodes reach the limit of 8 steps, and training beside it."""
    values = {} if sampled is None else {"training_episode_reward": sampled}
    return row(
        steps,
        eval_episode_reward=evaluated,
        eval_episode_reward_std=std,
        eval_avg_episode_length=8.0,
        eval_time_limit_reached=0.99,
        **values,
    )


def test_sampled_actions_that_are_better_than_the_likeliest_are_told() -> None:
    first = corridor(0, -8.0, None)
    # As in example 13.1 of Sutton and Barto: always one way, or now and then the other.
    rows = [first, corridor(100, -8.0, -4.0), corridor(200, -8.0, -3.5)]
    assert told(rows) == "sampled"
    assert told(rows, deterministic_eval=False) == "limit"
    # Once may be chance; but a longer time limit is no advice any more.
    assert told(rows[:2]) == ""
    # Within the spread of episodes.
    assert told([first, *({**x, "eval/episode_reward_std": 5.0} for x in rows[1:])]) == "limit"
    # Seeds by their mean.
    other = [{**x, "seed": 1} for x in rows]
    assert told([*rows, *other]) == "sampled"
    # So little time that long episodes have not ended in training.
    assert told([*rows[:2], corridor(120, -8.0, -3.5)]) == "limit"


@pytest.mark.parametrize(
    "curve",
    [
        [(-8, None), (-6, -7), (-3, -5), (-2, -2.2)],  # training lags behind
        [(-8, None), (-2, -2.2), (-2.3, -2.1), (-2.1, -2.0)],  # a little better by chance
        [(-2, None), (-3, -2.4), (-4, -3.4), (-5, -4.4), (-8, -6)],  # a policy that gets worse
        [(-8, None), (-2, -5), (-8, -3), (-2, -5), (-8, -3)],  # one that is lost now and then
    ],
)
def test_ordinary_differences_to_training_episodes_are_not_told(curve: Any) -> None:
    rows = [corridor(100 * n, now, sampled, 0.3) for n, (now, sampled) in enumerate(curve)]
    assert "sampled" not in told(rows)


def test_a_reward_that_is_always_the_same_is_told() -> None:
    zero = {"training_reward_min": 0.0, "training_reward_max": 0.0}
    assert told([row(0), chunk(10, reward_min=0.0, reward_max=0.0)]) == ""  # no evaluation yet
    assert told([row(0), row(100, **zero)]) == "reward"
    assert told([row(0), row(100, **zero), row(200)]) == ""
    # Sums of many -0.1 are rounded; the more updates, the more.
    length = {"eval_avg_episode_length": 8.0}
    few, many = (
        float(np.cumsum(np.full(updates, -0.1, np.float32))[-1] / updates)
        for updates in (3, 10_000)
    )
    rounded = [
        chunk(50, reward_min=few, reward_max=few),
        row(100, training_reward_min=many, training_reward_max=many, **length),
    ]
    assert few != many
    assert told([row(0, **length), *rounded]) == "reward"
    # Small differences within an update are none of rounding.
    small = {"training_reward_min": -0.10001, "training_reward_max": -0.1}
    assert told([row(0, **length), row(100, **small, **length)]) == ""
    assert told([row(0), chunk(10, reward_min=0.0, reward_max=0.5), row(100, **zero)]) == ""


def test_a_reward_of_one_per_step_is_fine_where_episodes_differ_in_length() -> None:
    one = {"training_reward_min": 1.0, "training_reward_max": 1.0}
    assert told([row(0), row(100, **one)]) == ""
    fixed = {"eval_avg_episode_length": 8.0}
    assert told([row(0, **fixed), row(100, **one, **fixed)]) == "reward"
    falls = {"training_episodes": 3.0, "training_episode_length": 6.0}
    assert told([row(0, **fixed), row(100, **one, **fixed, **falls)]) == ""


@pytest.mark.parametrize(
    ("mean", "std", "is_told"),
    [
        ([0, 0], [1, 900], False),
        ([0, 0], [1, 1100], True),
        ([0, 0, 0], [1e-6, 1, 2], False),  # the first is constant; Brax clips at 1e-6
        ([1e4, 0], [1e-3, 2], False),  # constant too, but for rounding
        ([0], [1e-6], False),
        ({"a": [0, 0], "b": [0]}, {"a": [1, 2], "b": [5000]}, True),
        ([[0, 0], [0, 0]], [[1, 2], [3, 4000]], True),  # two seeds
        ({}, {}, False),  # images alone
    ],
)
def test_observations_of_different_scales_are_told_without_normalisation(
    mean: Any, std: Any, is_told: bool
) -> None:
    def arrays(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: np.array(x, np.float32), tree, is_leaf=lambda x: isinstance(x, list)
        )

    statistics = types.SimpleNamespace(mean=arrays(mean), std=arrays(std))
    rows = [row(0), row(100)]
    off = told(rows, statistics=statistics, normalize_observations=False)
    assert off == "scale" * is_told
    assert told(rows, statistics=statistics, normalize_observations=True) == ""


@pytest.mark.parametrize(
    ("space", "first", "fine", "collapsed"),
    [
        (Continuous(2), 0.8, -7.0, -7.5),
        (Discrete(4), math.log(4), 0.03, 0.02),
        (MultiDiscrete((3, 2)), 1.7, 0.04, 0.03),
    ],
)
def test_entropy_that_collapses_early_is_told(
    space: ActionSpace, first: float, fine: float, collapsed: float
) -> None:
    start, end = [row(0), chunk(10, entropy=first)], [row(111)]
    assert told([*start, chunk(90, entropy=fine), *end], space) == ""
    assert told([*start, chunk(90, entropy=collapsed), *end], space) == "entropy"
    assert told([*start, chunk(90, entropy=collapsed)], space) == ""  # not evaluated yet
    assert told([*start, chunk(110, entropy=collapsed), *end], space) == ""  # later it may
    # A policy that has found what to do may be sure of it.
    better = [row(111, eval_episode_reward=row(0)["eval/episode_reward"] + 1)]
    assert told([*start, chunk(90, entropy=collapsed), *better], space) == ""
    # Each seed by itself.
    other = [{**x, "seed": 1} for x in (chunk(10, entropy=first), chunk(90, entropy=fine))]
    assert told([*start, *other, *end], space) == ""
    worse = {**chunk(95, entropy=collapsed), "seed": 1}
    assert told([*start, *other, worse, *end], space) == "entropy"


def test_one_choice_has_no_entropy_to_lose() -> None:
    assert told([row(0), chunk(10, entropy=0.0)], Discrete(1)) == ""


# ---- reports ------------------------------------------------------------------------------------


def metrics(steps: int, seed: int, value: float) -> dict[str, float]:
    return {"steps": steps, "seed": seed, "eval/episode_distance": value}


def events(folder: Path) -> list[Any]:
    """All events in the files of a folder, in order."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("*tfevents*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    return [
        (event.step, value.tag, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


def gif(path: Path) -> Path:
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def test_tensorboard_gets_every_row_under_its_own_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reporter = reporters(tmp_path, TINY, tensorboard=True, wandb=None)
    assert reporter.places == [f"TensorBoard: tensorboard --logdir {tmp_path}/tensorboard"]
    reporter.report(metrics(0, 0, 1.5))
    # Written at once: whoever kills the run has lost nothing.
    assert scalars(tmp_path / "tensorboard") == [(0, "eval/episode_distance", 1.5)]
    reporter.report(metrics(32, 0, 2.5))
    reporter.video(gif(tmp_path / "play.gif"), 0)
    reporter.close()
    assert scalars(tmp_path / "tensorboard")[1:] == [(32, "eval/episode_distance", 2.5)]
    image = events(tmp_path / "tensorboard")[-1].summary.value[0].image
    assert (image.width, image.height) == (6, 4)
    assert image.encoded_image_string == (tmp_path / "play.gif").read_bytes()
    assert capfd.readouterr() == ("", "")


def test_tensorboard_draws_the_curves_of_seeds_over_each_other(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, num_seeds=2, seed=3)
    reporter = reporters(tmp_path, settings, tensorboard=True, wandb=None)
    for seed in (3, 4):
        reporter.report(metrics(32, seed, float(seed)))
    reporter.close()
    for seed in (3, 4):
        found = scalars(tmp_path / "tensorboard" / f"seed_{seed}")
        assert found == [(32, "eval/episode_distance", float(seed))]


def test_a_resumed_run_hides_what_a_killed_one_reported_too_much(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import SessionLog

    for steps in (32, 64), (64, 96):
        reporter = reporters(tmp_path, TINY, tensorboard=True, wandb=None)
        for at in steps:
            reporter.report(metrics(at, 0, 1.0))
        reporter.close()
    starts = [
        (event.step, event.session_log.status)
        for event in events(tmp_path / "tensorboard")
        if event.HasField("session_log")
    ]
    assert starts == [(32, SessionLog.START), (64, SessionLog.START)]
    assert [steps for steps, *_ in scalars(tmp_path / "tensorboard")] == [32, 64, 64, 96]


def test_a_report_that_fails_does_not_end_training(tmp_path: Path) -> None:
    said: list[str] = []
    reporter = reporters(tmp_path, TINY, tensorboard=True, wandb=None, say=said.append)
    (tmp_path / "tensorboard").write_text("in the way")
    reporter.report(metrics(0, 0, 1.0))
    reporter.report(metrics(32, 0, 1.0))
    reporter.close()
    (sentence,) = said
    assert sentence.startswith("TensorBoard gets no more reports: ")
    assert sentence.endswith("tensorboard is no folder, but a run has a folder there: remove it.")


def test_a_full_disk_ends_the_reports_alone(tmp_path: Path) -> None:
    said: list[str] = []
    reporter = reporters(tmp_path, TINY, tensorboard=True, wandb=None, say=said.append)
    reporter.report(metrics(0, 0, 1.0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        for steps in range(32, 3200, 32):
            reporter.report(metrics(steps, 0, 1.0))
        reporter.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (sentence,) = said
    assert re.match("TensorBoard gets no more reports: .*File too large", sentence)


def test_nothing_is_reported_unless_asked(tmp_path: Path) -> None:
    reporter = reporters(tmp_path, TINY, tensorboard=False, wandb=None)
    reporter.report(metrics(0, 0, 1.0))
    reporter.close()
    assert reporter.places == Reporter().places == []
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()  # wandb leaves such a folder, which looks like a package to Python
    for name in list(sys.modules):
        if name.split(".")[0] == "wandb":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UsageError, match="--wandb needs the package wandb: install the extra"):
        reporters(tmp_path, TINY, tensorboard=False, wandb="x")


class FakeRun:
    """Records what is logged, as wandb's run would send it."""

    url, offline, step = "https://wandb.example/run", False, 0

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = False

    def log(self, values: dict[str, Any], step: int) -> None:
        assert step >= self.step, "wandb drops what is logged at an earlier step"
        self.step = step
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """The runs that a stand-in for wandb has opened."""
    opened: list[FakeRun] = []
    module: Any = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None, origin="here")
    module.errors = types.SimpleNamespace(Error=ConnectionError)
    module.Settings = lambda **options: options
    module.Video = lambda path, **options: (path, options)

    def init(**options: Any) -> FakeRun:
        opened.append(FakeRun(**options))
        return opened[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return opened


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_reports_do_not_follow_links(tmp_path: Path, name: str, fake: list[FakeRun]) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UsageError, match=f"{name} is a link"):
        reporters(tmp_path / "run", TINY, tensorboard=True, wandb="project")
    assert not fake
    assert not list((tmp_path / "outside").iterdir())


def test_wandb_gets_every_row_and_a_video(tmp_path: Path, fake: list[FakeRun]) -> None:
    reporter = reporters(tmp_path, TINY, tensorboard=False, wandb="project")
    assert reporter.places == ["Weights & Biases: https://wandb.example/run"]
    for steps in (0, 32):
        reporter.report(metrics(steps, 0, 1.0 + steps))
    reporter.video(tmp_path / "play.gif", 0)  # the best checkpoint may be an old one
    reporter.close()
    (run,) = fake
    assert run.options["project"] == "project"
    assert run.options["name"] == tmp_path.name
    assert run.options["config"] == dataclasses.asdict(TINY)
    assert run.logged[:2] == [
        (0, {"eval/episode_distance": 1.0}),
        (32, {"eval/episode_distance": 33.0}),
    ]
    path, options = run.logged[2][1]["episode"]
    assert (path, options["caption"]) == (str(tmp_path / "play.gif"), "after 0 steps")
    assert run.finished


def test_wandb_gets_each_seed_and_the_mean(tmp_path: Path, fake: list[FakeRun]) -> None:
    settings = dataclasses.replace(TINY, num_seeds=2, seed=3)
    reporter = reporters(tmp_path, settings, tensorboard=False, wandb="project")
    reporter.report(metrics(32, 3, 1.0))
    reporter.report(metrics(32, 4, 2.0) | {"training/episode_reward": 5.0})
    assert fake[0].logged == [
        (
            32,
            {
                "eval/episode_distance": 1.5,
                "training/episode_reward": 5.0,
                "seed_3/eval/episode_distance": 1.0,
                "seed_4/eval/episode_distance": 2.0,
                "seed_4/training/episode_reward": 5.0,
            },
        )
    ]


def test_wandb_goes_on_in_the_run_that_the_folder_names(
    tmp_path: Path, fake: list[FakeRun]
) -> None:
    for name in ("run-20260101_000000-old", "offline-run-20260102_000000-new1", "latest-run"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    reporters(tmp_path, TINY, tensorboard=False, wandb="project")
    assert (fake[0].options["id"], fake[0].options["resume"]) == ("new1", "allow")


def test_a_refusal_of_wandb_is_one_sentence(
    tmp_path: Path, fake: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: Any) -> Any:
        raise ConnectionError("No API key configured.\nmore")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(
        UsageError, match=r"can't be used \(No API key configured.\): leave --wandb"
    ):
        reporters(tmp_path, TINY, tensorboard=False, wandb="project")


# Two sessions, of which the second goes on from the first.
WANDB_RUN = """
import sys
from pathlib import Path
from kit import train  # the door keeps what Brax imports from printing
from kit.run.reports import reporters
from toys import TINY
run = Path(sys.argv[1])
for session in ((0, 32), (64,)):
    reporter = reporters(run, TINY, tensorboard=False, wandb="project")
    for steps in session:
        reporter.report({"steps": steps, "seed": 0, "eval/episode_distance": steps + 0.5})
    reporter.video(run / "play.gif", 0)
    reporter.close()
    print(*reporter.places)
"""


def logged_offline(folder: Path) -> list[dict[str, str]]:
    """What the file of an offline run says was logged, as JSON; it fits into one 32 kB block."""
    records: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    (path,) = folder.glob("*.wandb")
    data, found = path.read_bytes()[7:], []
    while data:
        (length,) = struct.unpack("<H", data[4:6])
        history = records.Record.FromString(data[7 : 7 + length]).history
        found.append({"/".join(x.nested_key) or x.key: x.value_json for x in history.item})
        data = data[7 + length :]
    return [values for values in found if values]


@pytest.mark.slow
def test_wandb_itself_works_offline_without_a_word(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    gif(tmp_path / "play.gif")
    paths = [str(Path(display.__file__).parents[2]), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WANDB_RUN, str(tmp_path)],
        env={**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    places = re.findall(r"^Weights & Biases: wandb sync (\S+)$", done.stdout, re.MULTILINE)
    assert len(done.stdout.splitlines()) == len(places) == 2
    ids = {place.rsplit("-", 1)[1] for place in places}
    assert len(ids) == 1
    name = "eval/episode_distance"
    logged = [logged_offline(Path(place)) for place in places]
    assert [(x["_step"], x.get(name), "episode/path" in x) for x in logged[0]] == [
        ("0", "0.5", False),
        ("32", "32.5", True),
    ]
    assert [(x["_step"], x.get(name)) for x in logged[1]] == [("64", "64.5")]
    assert list(Path(places[0]).glob("files/media/videos/*.gif"))
