"""A search for settings of PPO that solve a task: docs/tune.md says in words what it does.

A round trains 16 settings at once, as members of one program; `ladder` says which of them go on.
Only those do that are among the best quarter of all rounds so far (asynchronous successive halving,
Li et al. 2020, arXiv:1810.05934). With a threshold, settings have to reach it on up to 256 seeds:
settings that fail on one seed in 64 reach it on 64 of 64 more than a third of the time.
"""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from ...bounds import FINITE, MINUTES
from ...errors import OutOfMemoryError, TrainingStopped, UsageError
from ...ppo.settings import PPOConfig
from ...ppo.task import Task
from ...run import files, fingerprint
from ...run.display import Display
from ...run.signals import StopRequest, stop_requests
from ...run.statistics import interquartile_mean
from .journal import Journal
from .ladder import (
    ALONE,
    BATCHES,
    RANGES,
    Candidate,
    Ladder,
    Result,
    Round,
    Structure,
    as_settings,
    saved,
    score,
    structures,
)
from .proposals import import_optuna, propose
from .table import table
from .trainer import NUMBERS, Curves, Trainer

MEMBERS = 16  # settings, or seeds of fewer settings, that train at once
EVALUATIONS = 8  # of a run with all steps
EPISODES = 32  # of an evaluation, where those of config.py would take more steps than training
MAX_BYTES = 1e9  # of the observations that all members collect for an update


def tune(
    task: Task,
    *,
    name: str = "task",
    minutes: float = 10.0,
    threshold: float | None = None,
    folder: Path | None = None,
    console: Console | None = None,
) -> Result:
    """Searches for settings with which PPO solves the task, and prints a table of the best ones.

    All results are kept in the folder, and another call goes on from there. For another
    environment, other networks or other settings a new search starts beside the old one. SIGINT
    (Ctrl-C), SIGTERM and SIGHUP end the search after the updates in progress; the results by then
    are kept and printed.

    Args:
      task: its environment and networks stay as they are, its settings are improved. Settings
        train for its `num_timesteps`, or for what fits the minutes if that is less.
      name: what `config.py` calls it.
      minutes: how long to search, compiling included; 0 prints the results so far, also while
        another process searches.
      threshold: the return at which the task is solved. The search ends when settings reach it on
        all of 256 seeds.
      folder: where to keep the search; `tune/<name>` if None.
      console: where progress is shown; stdout if None.

    Returns:
      The best settings that are known, which may be those of the task.

    Raises:
      UsageError: Optuna is missing, another process searches in the folder, the folder or a file
        in it can't be used, or there is no result.
      FileError: the disk is full or can't be written to; earlier results are kept.
      TrainingStopped: a signal ended the search.
      OutOfMemoryError: the device has too little memory for so many members.
    """
    MINUTES.check("--minutes", minutes)
    if threshold is not None:
        FINITE.check("--threshold", threshold)
    console = console or Console()
    place = folder or Path("tune") / name
    with stop_requests() as request, contextlib.ExitStack() as stack:
        if minutes:
            import_optuna()
            _make(place)
            busy = f"Another process searches in {place}: wait until it ends, see what it has "
            busy += "found with --minutes 0, or name another --folder."
            stack.enter_context(files.lock(place, busy))
        search = _Search(task, place, console, minutes, threshold, request)
        if minutes:
            with contextlib.suppress(_Stopped):
                search.run()
        results = search.ladder.results()
        if results:
            console.print(table(task.settings, results, threshold))
    if request.signal:
        Display(console, 1).say(f"Stopped. The same command goes on with what is in {place}.")
        raise TrainingStopped(request.signal)
    if not results:
        raise UsageError(
            "Nothing was found: no setting has trained to an end. Give it more --minutes, or see "
            "with `check` and `train` what goes wrong."
        )
    return results[0]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder} can't be used ({files.reason(error)}): name another --folder."
        ) from None


class _Stopped(Exception):
    """A signal has come, the time is over, or no structure is fast enough."""


class _Search:
    """One call of `tune`: what is known, the programs and the time that is left."""

    def __init__(
        self,
        task: Task,
        folder: Path,
        console: Console,
        minutes: float,
        threshold: float | None,
        request: StopRequest,
    ) -> None:
        self.task, self.console = task, console
        self.threshold, self.request = threshold, request
        self.seconds = 60 * minutes
        self.deadline = time.monotonic() + self.seconds
        self.too_slow: set[Structure] = set()
        self.ranges = {name: RANGES[name] for name in NUMBERS}
        self.count, tried = members_and_structures(task)
        self.trainer = Trainer(task, self.count, console, self._check)
        self.ladder = Ladder(tried, self.count, task.settings.seed, threshold)
        self.journal = self._open(folder)
        self.steps = self.ladder.steps or task.settings.num_timesteps

    def _open(self, folder: Path) -> Journal:
        """The results so far for the same task, settings and ranges."""
        known = fingerprint.describe(self.task.environment(), self.task.make_ppo())
        of = {key: x for key, x in known.items() if key not in ("versions", "device")}
        of["settings"] = dataclasses.asdict(self.task.settings)
        of["space"] = [BATCHES, self.ranges, self.count]
        name = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]
        journal = Journal(folder / f"{name}.jsonl", self.ladder.add)
        if journal.torn:
            self._say(f"The last line of {journal.path} was cut short and is left out.")
        if journal.count:
            count = sum(len(x.candidates) for x in self.ladder.rounds if x.rung >= 0)
            self._say(f"Going on with the search in {folder}: {count} settings so far.")
        elif any(path != journal.path for path in folder.glob("*.jsonl")):
            self._say(
                f"The search in {folder} was for another environment, other networks or other "
                "settings in config.py, so a new one starts beside it."
            )
        return journal

    def _keep(self, record: dict[str, Any]) -> None:
        """Adds to what is known; before the first result, how long settings train."""
        if self.ladder.steps is None:
            self.ladder.steps = self.steps
            self.journal.append({"num_timesteps": self.steps})
        self.ladder.add(record)
        self.journal.append(record)

    # ---- the order of things --------------------------------------------------------------------

    def run(self) -> None:
        """Until the threshold is reached; `_Stopped` is raised when the time is over."""
        self.journal.begin()
        self._choose_steps()
        self._train_own()
        if self.ladder.own and Result({}, self.ladder.own, 1).solves(self.threshold):
            self._say("The settings of config.py reach the threshold on every seed.")
            return
        while not self.ladder.is_solved():
            self._train_round()

    def _choose_steps(self) -> None:
        """How long settings train: the same in all calls of a search."""
        asked = self.task.settings.num_timesteps
        if self.ladder.steps is None:
            settings = self._settings(self.ladder.structures[0])
            # A tenth of the time for a run leaves time for some structures.
            fits = self.trainer.speed(settings) * self.seconds / 10
            fits = float(f"{max(fits, EVALUATIONS * settings.steps_per_update):.1g}")
            self.steps = int(min(asked, fits))
        if self.steps < asked:
            self._say(
                f"Settings train for {self.steps:,} steps rather than {asked:,}, which would take "
                "too much of the time."
            )

    def _train_own(self) -> None:
        """Trains with the settings of config.py, which the others have to beat.

        If they solve the task they are confirmed on more seeds, as others are.
        """
        own, ladder = self.task.settings, self.ladder
        structure = next(
            x for x in ladder.structures if dataclasses.replace(own, **x.settings()) == own
        )
        for rung in range(ALONE, ladder.rungs):
            if ladder.own is not None:
                if (rung - ALONE) * self.count < ladder.own.returns.shape[1]:
                    continue
                if not Result({}, ladder.own, 1).solves(self.threshold):
                    break
            found = self._train(structure, [{}], ladder.first_seed(0, rung), self.steps)
            if found is None:
                break
            self._keep({"own": saved(found)})
            self._say(f"config.py has {self._summary([ladder.own or found])}")

    def _train_round(self) -> None:
        """Trains new settings, and the best of them again on more seeds."""
        ladder = self.ladder
        number = ladder.unfinished(self.too_slow)
        if number is None:
            structure = ladder.structure(self.too_slow)
            if structure is None:
                raise _Stopped
            proposed = propose(self.ranges, ladder.ranked(structure), self.count)
            self._keep({"structure": structure, "numbers": proposed})
            number = len(ladder.rounds) - 1
        round = ladder.rounds[number]
        while round.going_on:
            training = round.next()
            found = self._train(
                round.structure,
                [as_settings(x.numbers) for x in training],
                ladder.first_seed(number, round.rung + 1),
                self.steps // 2 if round.rung < 0 else self.steps,
            )
            if found is None:
                break
            round.found(found)
            round.going_on = ladder.choose(round)
            self.journal.append({"round": number, "found": saved(found), "go_on": round.going_on})
            self._say(f"{round.structure}: {self._outcome(round, training)}")

    def _train(
        self, structure: Structure, numbers: Sequence[dict[str, float]], seed: int, steps: int
    ) -> Curves | None:
        """Trains each of the settings, on as many seeds as there are members for it.

        A number that is not given is that of config.py. A run that is cut off says nothing: at the
        end of the time `_Stopped` is raised, and None is returned if a run takes too much of it.
        """
        if self._left() <= 0:
            raise _Stopped
        settings = self._settings(structure)
        own = {name: getattr(self.task.settings, name) for name in NUMBERS}
        try:
            self.trainer.compiled(settings)
            seconds = min(self._left(), self.seconds / 6)
            found = self.trainer.train(
                settings,
                ([own | given for given in numbers] * self.count)[: self.count],
                seed=seed,
                steps=steps,
                evaluations=max(1, round(EVALUATIONS * steps / self.steps)),
                seconds=seconds,
            )
        except OutOfMemoryError:
            raise OutOfMemoryError(
                f"The device has too little memory to train {self.count} settings at once with "
                f"{structure}: use smaller batches in config.py, or JAX_PLATFORMS=cpu."
            ) from None
        if found is None:
            if seconds < self.seconds / 6:
                raise _Stopped
            self.too_slow.add(structure)
            self._say(
                f"{structure}: {steps:,} steps take more than {seconds:,.0f} s, a sixth of the "
                "time, so what was cut off does not count: give it more --minutes."
            )
        return found

    def _settings(self, structure: Structure) -> PPOConfig:
        own = self.task.settings
        as_long = self.steps // (EVALUATIONS * own.episode_length)  # together as training
        return dataclasses.replace(
            own,
            **structure.settings(),
            num_timesteps=self.steps,
            num_eval_envs=min(max(EPISODES, as_long), own.num_eval_envs),
        )

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _check(self) -> None:
        if self.request.signal:
            raise _Stopped

    # ---- what is said ---------------------------------------------------------------------------

    def _outcome(self, round: Round, trained: Sequence[Candidate]) -> str:
        if round.rung:
            return self._summary([x.seen(round.rung) for x in trained])
        diverged = sum(not x.scores() for x in trained)
        text = f", {diverged} diverged" if diverged else ""
        return f"{len(trained)} settings{text}, {len(round.going_on)} go on"

    def _summary(self, found: list[Curves]) -> str:
        """The best of some settings that trained on the same number of seeds."""
        known = [curves for curves in found if np.isfinite(curves.returns).all()]
        if not known:
            return "all have diverged"
        best = max(known, key=score)
        last = best.returns[-1]
        seeds = f"{len(last)} seeds"
        if self.threshold is not None:
            seeds += f", of which {(last >= self.threshold).sum()} reach {self.threshold:g}"
        return f"return {interquartile_mean(last):.4g} after {best.steps[-1]:,} steps on {seeds}"

    def _say(self, text: str) -> None:
        Display(self.console, 1).say(text)


def members_and_structures(task: Task) -> tuple[int, list[Structure]]:
    """How many members fit the memory, and the structures to try, in this order."""
    own = task.settings
    obs = fingerprint.reset_shapes(task.environment()).obs
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(obs)) / own.action_repeat
    members = MEMBERS
    while members > 4 and members * size * own.steps_per_update > MAX_BYTES:
        members //= 2

    def fits(settings: PPOConfig) -> bool:
        return members * size * settings.steps_per_update <= MAX_BYTES

    return members, structures(own, fits)
