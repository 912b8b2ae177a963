"""The search for settings, what it keeps, and what it writes into config.py."""

import dataclasses
import importlib.util
import io
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from kit import cli
from kit.errors import TrainingStopped, UsageError
from kit.ppo.settings import PPOConfig
from kit.ppo.task import Task
from kit.run import files
from kit.tools.tune import config_file, ladder
from kit.tools.tune import search as searching
from kit.tools.tune.journal import Journal
from kit.tools.tune.ladder import Candidate, Ladder, Result, solved_after
from kit.tools.tune.trainer import NUMBERS, Curves, Trainer
from rich.console import Console
from toys import toy_task

pytest.importorskip("optuna")

TASK = toy_task(num_timesteps=64, episode_length=4, num_eval_envs=2, learning_rate=1e-6)


class FakeTrainer:
    """Stands for training where only the search is tested: returns follow from the settings.

    The best are a large learning rate and large batches; each seed differs a little. All steps
    take a minute on a clock that nothing else moves.
    """

    clock = 0.0

    def __init__(self, task: Task, count: int, console: Console, check: Any) -> None:
        self.count, self.check = count, check

    def compiled(self, settings: PPOConfig) -> None:
        self.check()

    def speed(self, settings: PPOConfig) -> float:
        return 1e6

    def train(
        self,
        settings: PPOConfig,
        numbers: Sequence[Mapping[str, float]],
        *,
        seed: int,
        steps: int,
        evaluations: int,
        seconds: float,
    ) -> Curves | None:
        self.check()
        assert len(numbers) == self.count
        needed = 60 * steps / settings.num_timesteps
        FakeTrainer.clock += min(needed, seconds)
        if needed > seconds:
            return None
        end = np.array([np.log10(x["learning_rate"]) for x in numbers]) + settings.num_envs / 10
        end += np.random.default_rng(seed).normal(size=self.count) / 100
        share = np.linspace(1 / evaluations, 1, evaluations)
        return Curves((steps * share).astype(int), share[:, None] * end - 10)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch.setattr)


def pretend(setattr: Callable[[Any, str, Any], None]) -> None:
    setattr(searching, "Trainer", FakeTrainer)
    setattr(searching, "time", SimpleNamespace(monotonic=lambda: FakeTrainer.clock))
    setattr(searching, "MEMBERS", 4)


def search(
    folder: Path, minutes: float = 8.0, task: Task = TASK, **options: Any
) -> tuple[Any, str]:
    """What was found, and what was printed."""
    text = io.StringIO()
    console = Console(file=text, width=120)
    found = searching.tune(task, minutes=minutes, folder=folder, console=console, **options)
    return found, text.getvalue()


def known(folder: Path, task: Task = TASK) -> Ladder:
    """What is kept of the only search in the folder."""
    members, structures = searching.members_and_structures(task)
    found = Ladder(structures, members, task.settings.seed, None)
    (path,) = folder.glob("*.jsonl")
    Journal(path, found.add)
    return found


def candidates(folder: Path) -> list[Candidate]:
    return [x for y in known(folder).rounds for x in y.candidates if x.curves]


# ---- training -----------------------------------------------------------------------------------


NUMBERS_OF_TASK = {name: getattr(TASK.settings, name) for name in NUMBERS}


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(TASK, 4, Console(file=io.StringIO()), lambda: None)


def test_members_differ_and_one_that_diverges_does_not_stop_the_others(trainer: Trainer) -> None:
    rates = (1e-3, 1e-3, 1e-2, 1e38)
    numbers = [{**NUMBERS_OF_TASK, "learning_rate": rate} for rate in rates]
    options: dict[str, Any] = {"seed": 3, "steps": 64, "evaluations": 2, "seconds": 1e9}
    curves = trainer.train(TASK.settings, numbers, **options)
    assert curves is not None
    assert curves.steps.tolist() == [32, 64]
    assert np.isfinite(curves.returns[:, :3]).all()
    assert np.isnan(curves.returns[-1, 3])
    assert len(set(curves.returns[-1, :3])) == 3
    numbers[1] = {**NUMBERS_OF_TASK, "learning_rate": 1e-2}
    again = trainer.train(TASK.settings, numbers, **options)
    assert again is not None
    np.testing.assert_array_equal(again.returns[:, [0, 2, 3]], curves.returns[:, [0, 2, 3]])
    assert again.returns[-1, 1] != curves.returns[-1, 1]


def test_a_run_that_is_cut_off_does_not_count(trainer: Trainer) -> None:
    options: dict[str, Any] = {"seed": 0, "steps": 640, "evaluations": 3, "seconds": 0}
    assert trainer.train(TASK.settings, [NUMBERS_OF_TASK] * 4, **options) is None


# ---- scores -------------------------------------------------------------------------------------


def result(*curves: Sequence[float]) -> Result:
    returns = np.array(curves, float).T
    return Result({}, Curves(100 * (1 + np.arange(len(returns))), returns), 1)


def test_the_end_counts_most_and_sooner_is_better() -> None:
    late, soon, forgets = result([0, 0, 0, 9]), result([0, 9, 9, 9]), result([9, 9, 9, 0])
    assert soon.score > late.score > forgets.score


def test_one_seed_that_fails_costs_more_than_slowness() -> None:
    slow = result([0, 0, 0, 9], [0, 0, 9, 9])
    assert slow.score > result([9, 9, 9, 9], [0, 0, 0, 0]).score


def test_solved_means_that_the_return_stays() -> None:
    found = result([9, 0, 9, 9], [0, 0, 0, 0], [9, 9, 9, 9])
    assert solved_after(found.curves, 8).tolist() == [300, np.inf, 100]
    assert not found.solves(8)
    assert result([0, 9], [9, 8]).solves(8)
    assert not result([0, 9], [9, np.nan]).solves(8)
    assert not found.solves(None)


# ---- the search ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
def test_it_finds_what_is_best_and_says_so(tmp_path: Path) -> None:
    found, text = search(tmp_path / "it", 45)
    assert found.settings["learning_rate"] > 1e-3
    assert found.settings["num_envs"] == 16
    assert found.rung == ladder.RUNGS - 1
    rows = dict(re.findall(r"^│ (\S.*?) +│ (.*?) *│", text, re.M))
    assert float(rows["learning_rate"]) == found.settings["learning_rate"]
    assert int(rows["seeds"]) == 3 * searching.MEMBERS
    assert found.curves.returns.shape == (searching.EVALUATIONS, 4 * searching.MEMBERS)
    assert "config.py" in text
    rungs = {len(x.curves) for x in candidates(tmp_path / "it")}
    assert {1, ladder.RUNGS} <= rungs


@pytest.mark.usefixtures("fake")
def test_each_structure_is_tried_and_then_the_best_three_take_turns(tmp_path: Path) -> None:
    _, text = search(tmp_path / "it", 60)
    rounds = re.findall(r"^(.*?): 4 settings,", text, re.M)
    assert len(set(rounds[:6])) == 6
    assert len(set(rounds[6:9])) == len(set(rounds[6:])) == 3
    # The best are large, and how observations are normalised makes no difference.
    assert {"large batches, normalised", "large batches, not normalised"} < set(rounds[6:])


@pytest.mark.usefixtures("fake")
def test_a_second_call_goes_on(tmp_path: Path) -> None:
    first, _ = search(tmp_path / "it")
    before = len(candidates(tmp_path / "it"))
    second, text = search(tmp_path / "it")
    assert f"{before} settings so far" in text
    assert len(candidates(tmp_path / "it")) > before
    assert second.score >= first.score - 0.05
    shown, _ = search(tmp_path / "it", 0)
    assert shown.settings == second.settings


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("minutes", [3.0, 7.5, 20.0])
def test_all_minutes_are_used(tmp_path: Path, minutes: float) -> None:
    start = FakeTrainer.clock
    search(tmp_path / "it", minutes)
    assert FakeTrainer.clock - start == 60 * minutes


@pytest.mark.usefixtures("fake")
def test_a_confirmation_that_was_stopped_goes_on(tmp_path: Path) -> None:
    first, _ = search(tmp_path / "it", 8, threshold=-15.0)
    assert first.curves.returns.shape[1] == 5 * searching.MEMBERS
    second, text = search(tmp_path / "it", 60, threshold=-15.0)
    assert "4 settings so far" in text
    assert ": 4 settings," not in text  # no new round
    assert f"on {6 * searching.MEMBERS} seeds" in text
    assert second.settings == first.settings
    assert second.curves.returns.shape[1] == 16 * searching.MEMBERS
    np.testing.assert_array_equal(
        second.curves.returns[:, : 5 * searching.MEMBERS], first.curves.returns
    )
    (seeds,) = re.findall(r"^│ seeds  .*", text, re.M)
    assert not re.search(rf"\b{4 * searching.MEMBERS}\b", seeds)  # the settings are in one column


@pytest.mark.usefixtures("fake")
def test_another_task_starts_a_search_of_its_own(tmp_path: Path) -> None:
    search(tmp_path / "it")
    before = len(candidates(tmp_path / "it"))
    _, text = search(tmp_path / "it", task=toy_task(num_timesteps=64, episode_length=6))
    assert "a new one starts beside it" in text
    _, text = search(tmp_path / "it", 0)
    assert f"{before} settings so far" in text


@pytest.mark.usefixtures("fake")
def test_it_ends_at_the_threshold(tmp_path: Path) -> None:
    found, text = search(tmp_path / "it", 60, threshold=-12.0)
    assert found.solves(-12.0)
    assert found.curves.returns.shape[1] == 16 * searching.MEMBERS
    assert "seeds at -12 " in text
    assert len(candidates(tmp_path / "it")) <= 3 * searching.MEMBERS


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(("asked", "steps", "used"), [(8, 64, 8), (500, 64, 32), (500, 6_400, 200)])
def test_evaluations_have_as_many_episodes_as_config_if_those_are_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int, steps: int, used: int
) -> None:
    train, found = FakeTrainer.train, set()

    def noting(self: Any, settings: PPOConfig, *args: Any, **options: Any) -> Curves | None:
        found.add(settings.num_eval_envs)
        return train(self, settings, *args, **options)

    monkeypatch.setattr(FakeTrainer, "train", noting)
    # Eight evaluations of 200 episodes with 4 steps each take 6,400 steps.
    search(tmp_path, task=toy_task(num_timesteps=steps, episode_length=4, num_eval_envs=asked))
    assert found == {used}


def let_a_seed_fail(monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """The first member fails, whatever its settings, where the first seed is this one."""
    train = FakeTrainer.train

    def with_a_failure(self: FakeTrainer, *args: Any, seed: int, **options: Any) -> Curves | None:
        curves = train(self, *args, seed=seed, **options)
        if curves is not None:
            curves.returns[:, 0] -= 99.0 * (seed == failing)
        return curves

    monkeypatch.setattr(FakeTrainer, "train", with_a_failure)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("solved", [4, 60])
def test_seeds_of_a_lucky_few_do_not_end_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solved: int
) -> None:
    """The seed after so many fails, whatever the settings."""
    let_a_seed_fail(monkeypatch, TASK.settings.seed + solved)
    found, text = search(tmp_path / "it", 40, threshold=-12.0)
    assert re.search(f"return .* on {solved} seeds, of which {solved} reach -12", text)
    assert re.search(f"return .* on {solved + 4} seeds, of which {solved + 3} reach -12", text)
    assert f"on {solved + 8} seeds" not in text
    assert not found.solves(-12.0)


@pytest.mark.usefixtures("fake")
def test_settings_that_solve_the_task_are_left_alone(tmp_path: Path) -> None:
    found, _ = search(tmp_path / "it", 60, threshold=-100.0)
    assert not found.settings
    assert not known(tmp_path / "it").rounds


@pytest.mark.usefixtures("fake")
def test_a_run_that_the_end_of_the_time_cuts_off_does_not_count(tmp_path: Path) -> None:
    found, text = search(tmp_path / "it", 9.5, threshold=-100.0)
    assert found.curves.returns.shape[1] == 9 * searching.MEMBERS
    assert found.solves(-100.0)
    assert f"on {10 * searching.MEMBERS} seeds" not in text
    again, _ = search(tmp_path / "it", 9.5, threshold=-100.0)
    assert again.curves.returns.shape[1] == 16 * searching.MEMBERS


@pytest.mark.usefixtures("fake")
def test_settings_of_config_that_fail_on_a_late_seed_are_not_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_a_seed_fail(monkeypatch, TASK.settings.seed + 2 * searching.MEMBERS)
    _, text = search(tmp_path / "it", 6, threshold=-100.0)
    assert "on 4 seeds, of which 4 reach -100" in text
    assert "on 12 seeds, of which 11 reach -100" in text
    assert "on 16 seeds" not in text
    assert "4 settings" in text  # a round has begun


@pytest.mark.usefixtures("fake")
def test_the_seeds_after_the_largest_one_are_the_smallest_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, seeds = FakeTrainer.train, []

    def recording(self: FakeTrainer, *args: Any, seed: int, **options: Any) -> Curves | None:
        seeds.append(seed)
        return train(self, *args, seed=seed, **options)

    monkeypatch.setattr(FakeTrainer, "train", recording)
    last = 2**32 - 1
    search(tmp_path / "it", 60, toy_task(seed=last), threshold=-100.0)
    assert seeds[:4] == [last, 3, 7, 11]


@pytest.mark.usefixtures("fake")
def test_settings_that_diverge_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large learning rates diverge; the search goes on with the others."""
    train = FakeTrainer.train

    def diverging(self: Any, settings: Any, numbers: Any, **options: Any) -> Curves | None:
        curves = train(self, settings, numbers, **options)
        if curves is not None:
            curves.returns[:, [x["learning_rate"] > 1e-3 for x in numbers]] = np.nan
        return curves

    monkeypatch.setattr(FakeTrainer, "train", diverging)
    found, text = search(tmp_path / "it", 20)
    assert found.settings["learning_rate"] <= 1e-3
    assert " diverged" in text
    for candidate in candidates(tmp_path / "it"):
        if candidate.numbers["learning_rate"] > 1e-3:
            assert len(candidate.curves) == 1
            assert not candidate.scores()


@pytest.mark.usefixtures("fake")
def test_the_table_is_about_seeds_that_had_no_part_in_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings all return 0, but 100 on the seeds on which they are chosen."""

    def lucky(self: Any, *args: Any, seed: int, **options: Any) -> Curves | None:
        curves = train(self, *args, seed=seed, **options)
        if curves is not None:
            curves.returns[:] = 100.0 * (seed == TASK.settings.seed)
        return curves

    train = FakeTrainer.train
    monkeypatch.setattr(FakeTrainer, "train", lucky)
    _, text = search(tmp_path / "it", 40)
    rows = dict(re.findall(r"^│ (\S.*?) +│ (.*?) *│", text, re.M))
    assert (rows["return"], rows["95 % interval"]) == ("0", "0 to 0")
    assert int(rows["seeds"]) == 3 * searching.MEMBERS
    monkeypatch.setattr(ladder, "RUNGS", 3)
    _, text = search(tmp_path / "not confirmed")
    rows = dict(re.findall(r"^│ (\S.*?) +│ (.*?) *│", text, re.M))
    assert (rows["return"], rows["95 % interval"]) == ("100", "not confirmed")


@pytest.mark.usefixtures("fake")
def test_structures_that_take_too_much_of_the_time_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = FakeTrainer.train

    def slow(self: Any, settings: PPOConfig, *args: Any, **options: Any) -> Curves | None:
        if settings.num_envs == 4:
            options["steps"] *= 30
        return train(self, settings, *args, **options)

    monkeypatch.setattr(FakeTrainer, "train", slow)
    _, text = search(tmp_path / "it", 60)
    assert "small batches, normalised: 32 steps take more than 600 s, a sixth of the time" in text
    assert {x.structure.batches for x in known(tmp_path / "it").rounds if x.rung >= 0} == {"large"}
    assert not any("config.py" in x for x in re.findall("^┃.*", text, re.M))
    with pytest.raises(UsageError, match="Give it more --minutes"):
        search(tmp_path / "nothing", 2)


@pytest.mark.usefixtures("fake")
def test_one_process_at_a_time_searches_in_a_folder(tmp_path: Path) -> None:
    here = tmp_path / "it"
    search(here)
    with files.lock(here, "busy"):
        with pytest.raises(UsageError, match="Another process searches in"):
            search(here)
        shown, _ = search(here, 0)
    assert shown.settings


@pytest.mark.slow
@pytest.mark.usefixtures("fake")
def test_killed_at_any_time_it_goes_on(tmp_path: Path) -> None:
    here = tmp_path / "it"
    code = (
        "import os, pathlib, kit.run.files as f, test_tune as t\n"
        "append, calls = f.append, []\n"
        "def killed(path, data):\n"
        "    calls.append(path)\n"
        "    append(path, data if len(calls) < 6 else data[:9])\n"
        "    len(calls) < 6 or os.kill(os.getpid(), 9)\n"
        "f.append = killed\n"
        f"t.pretend(setattr)\nt.search(pathlib.Path({str(here)!r}), 16)"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths})
    assert ended.returncode == -signal.SIGKILL
    _, text = search(here, 0)
    assert "was cut short and is left out" in text
    before = len(candidates(here))
    _, text = search(here)
    assert f"{before} settings so far" in text
    assert len(candidates(here)) > before
    assert "was cut short" not in search(here, 0)[1]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("space", [-1, 0, 700, 5000])
def test_a_full_disk_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: int
) -> None:
    """A limit on the size of files stands for the size of the disk."""
    here = tmp_path / "it"
    search(here)
    (path,) = here.glob("*.jsonl")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + space, limits[1]))
    try:
        with pytest.raises(files.FileError, match="File too large"):
            search(here)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes().startswith(before)
    assert path.read_bytes().endswith(b"\n")
    assert {x.name for x in here.iterdir()} == {path.name, ".lock"}
    assert "settings so far" in search(here)[1]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    train, runs = FakeTrainer.train, []

    def stopping(self: FakeTrainer, *args: Any, **options: Any) -> Curves | None:
        runs.append(options)
        if len(runs) == 2 + ladder.RUNGS:  # the second round has begun
            os.kill(os.getpid(), number)
        return train(self, *args, **options)

    monkeypatch.setattr(FakeTrainer, "train", stopping)
    text = io.StringIO()
    with pytest.raises(TrainingStopped) as stopped:
        searching.tune(
            TASK, minutes=20, folder=tmp_path / "it", console=Console(file=text, width=120)
        )
    assert stopped.value.signal == number
    assert "learning_rate" in text.getvalue()
    assert "The same command goes on" in text.getvalue()
    assert len(candidates(tmp_path / "it")) == searching.MEMBERS
    assert len(known(tmp_path / "it").rounds) == 2  # the second one is trained by the next call
    _, after = search(tmp_path / "it", 60)
    assert f"{searching.MEMBERS} settings so far" in after
    assert all(x.rung >= 0 for x in known(tmp_path / "it").rounds[:2])


@pytest.mark.usefixtures("fake")
def test_a_structure_whose_first_round_was_stopped_gets_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, runs = FakeTrainer.train, []

    def stopping(self: FakeTrainer, *args: Any, **options: Any) -> Curves | None:
        runs.append(options)
        if len(runs) == 2:  # the first was that of config.py
            os.kill(os.getpid(), signal.SIGINT)
        return train(self, *args, **options)

    monkeypatch.setattr(FakeTrainer, "train", stopping)
    with pytest.raises(TrainingStopped):
        search(tmp_path / "it")
    _, text = search(tmp_path / "it", 60)
    rounds = re.findall(r"^(.*?): 4 settings,", text, re.M)
    assert len(set(rounds[:6])) == 6


def test_mistakes_get_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--minutes is -60, which has to be from 0 to"):
        search(tmp_path, -60)
    with pytest.raises(UsageError, match="--threshold is nan, which has to be"):
        search(tmp_path, threshold=float("nan"))
    with pytest.raises(UsageError, match="Nothing was found"):
        search(tmp_path / "new", 0)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="name another --folder"):
        search(tmp_path / "file")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="uv sync --extra tune"):
        search(tmp_path)


def test_large_observations_have_fewer_members_and_no_larger_batches() -> None:
    wide = toy_task(observe=lambda x: jnp.full(100_000, x), num_envs=1, batch_size=1)
    members, structures = searching.members_and_structures(wide)
    assert members == searching.MEMBERS
    assert {x.batches for x in structures} == {"own"}
    wider = dataclasses.replace(wide, settings=dataclasses.replace(wide.settings, batch_size=512))
    assert searching.members_and_structures(wider)[0] == 4


def test_the_value_starts_at_the_best_constant_only_where_observations_are_normalised() -> None:
    own = toy_task(init_value_from_rollouts=False).settings
    assert own.normalize_observations
    found = [
        dataclasses.replace(own, **x.settings())
        for x in searching.members_and_structures(toy_task(init_value_from_rollouts=False))[1]
    ]
    pairs = [(x.normalize_observations, x.init_value_from_rollouts) for x in found if x != own]
    assert set(pairs) == {(True, True), (False, False)}
    assert own in found  # as config.py has it
    assert len(found) == len(set(found)) == 6


# ---- config.py ----------------------------------------------------------------------------------

PLAIN = """\
# Ü: what is trained
task = Task(
    environment=Env,
    settings=PPOConfig(
        episode_length=100,  # as published
        # of Adam
        learning_rate=1e-4,  # not larger
    ),
    network_factory=make(),
)
other = Task(Env, PPOConfig(episode_length=5, learning_rate=1e-4), make())
"""


def rewritten(tmp_path: Path, source: str, name: str = "task", **changed: Any) -> str | None:
    path = tmp_path / "config.py"
    path.write_bytes(source.encode())
    done = config_file.write(path, name, changed)
    text = path.read_bytes().decode()
    assert done or text == source
    return text if done else None


def test_only_the_lines_of_the_task_change(tmp_path: Path) -> None:
    text = rewritten(tmp_path, PLAIN, learning_rate=0.002, num_envs=4, max_grad_norm=None)
    assert text == PLAIN.replace(
        "learning_rate=1e-4,  # not larger\n",
        "learning_rate=0.002,  # not larger\n        num_envs=4,\n        max_grad_norm=None,\n",
    )


def test_a_second_task_on_one_line_is_changed_alone(tmp_path: Path) -> None:
    text = rewritten(tmp_path, PLAIN, "other", learning_rate=0.002, num_envs=4)
    assert text == PLAIN.replace("5, learning_rate=1e-4)", "5, learning_rate=0.002, num_envs=4)")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("PPOConfig(9)", "PPOConfig(9, num_envs=4)"),
        ("PPOConfig(9,)", "PPOConfig(9, num_envs=4,)"),
        ("PPOConfig()", "PPOConfig(num_envs=4)"),
        ("PPOConfig(num_envs=(2))", "PPOConfig(num_envs=(4))"),
        ("PPOConfig(episode_length=(9))", "PPOConfig(episode_length=(9), num_envs=4)"),
        ("ppo.PPOConfig(num_envs=2 * 'é'.count('é'))", "ppo.PPOConfig(num_envs=4)"),
        ("PPOConfig(\n  9\n  )", "PPOConfig(\n  9,\n      num_envs=4,\n  )"),
        ("PPOConfig(9,  # (\n)", "PPOConfig(9,  # (\n    num_envs=4,\n)"),
        ("PPOConfig(\r\n    9,\r\n)", "PPOConfig(\r\n    9,\r\n    num_envs=4,\r\n)"),
        (
            "PPOConfig(\n    9  # é\n    # last\n)",
            "PPOConfig(\n    9,  # é\n    # last\n    num_envs=4,\n)",
        ),
    ],
)
@pytest.mark.parametrize(
    "form", ["task = Task(Env, {}, make())", "task: Task = k.Task(settings={})"]
)
def test_other_ways_to_write_it(tmp_path: Path, form: str, before: str, after: str) -> None:
    source = "# é\nimport x\n" + form + "\n"
    assert rewritten(tmp_path, source.format(before), num_envs=4) == source.format(after)


@pytest.mark.parametrize(
    "source",
    [
        "settings = PPOConfig(9)\ntask = Task(Env, settings, make())",
        "task = dataclasses.replace(other, settings=PPOConfig(9))",
        "task = Task(Env, PPOConfig(9, **more), make())",
        "task = Task(Env, PPOConfig(*numbers), make())",
        "task = Task(Env, PPOConfig(9, 1000, 1), make())",
        "other = Task(Env, PPOConfig(9), make())",
        "task = Task(Env, dataclasses.replace(PPOConfig(9), seed=1), make())",
        "task = (",
    ],
)
def test_what_is_written_otherwise_is_left_alone(tmp_path: Path, source: str) -> None:
    assert rewritten(tmp_path, source, num_envs=4) is None


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("threshold", [-12.0, 0.0])
def test_the_command_writes_and_says_whether_the_threshold_is_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], threshold: float
) -> None:
    config = ModuleType("config")
    vars(config).update(task=TASK, __file__=str(tmp_path / "config.py"))
    (tmp_path / "config.py").write_text(PLAIN)
    words = ["tune", "--threshold", str(threshold), "--minutes", "6", "--write"]
    with pytest.raises(SystemExit) as ended:
        cli.main("my-env", config, [*words, "--folder", str(tmp_path / "it")])
    assert ended.value.code == int(threshold == 0)
    text = (tmp_path / "config.py").read_text()
    rate = re.search(r"learning_rate=(.*),  # not larger\n        \w+=", text)
    assert rate is not None
    assert re.search(rf"│ learning_rate +│ {rate[1]} ", capsys.readouterr().out)
    (tmp_path / "config.py").write_text("task = make_task()")
    with pytest.raises(SystemExit):
        cli.main("my-env", config, [*words, "--minutes", "0", "--folder", str(tmp_path / "it")])
    assert f"        learning_rate={rate[1]},\n" in capsys.readouterr().out
    assert (tmp_path / "config.py").read_text() == "task = make_task()"
