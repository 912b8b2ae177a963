"""A search for settings of PPO that solve a task.

From the template: changes of yours are kept, `copier update` merges new versions in.

A round trains 16 settings at once, as members of one program. What shapes the program is the same
for a round; the other numbers differ. For each such structure there is a study of Optuna, which
proposes the numbers, and whose journal file keeps what was found. Each structure gets a round,
after that the best three take turns. All settings of a round train for half of the steps on one
seed each, the best 4 of them start again for all of the steps on 4 other seeds each, the best of
these on 16, those that `train --num-seeds` uses, and then on 16 more, three times. Only those go on
that are among the best quarter of all rounds so far (asynchronous successive halving, Li et al.
2020, arXiv:1810.05934). With a threshold those go on from 16 seeds that reach it on all of them, up
to 256 seeds: settings that fail on one seed in 64 reach it on 64 of 64 more than a third of the
time. The more seeds, the more a score says to Optuna: the best of many settings on few seeds is
partly luck.
"""

import contextlib
import dataclasses
import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Column, Table

from . import commands, files, fingerprint
from .curve import bootstrap_interval, interquartile_mean
from .display import Display
from .errors import OutOfMemoryError, TrainingStopped, UsageError
from .members import NUMBERS, Curves, Trainer
from .ppo import PPOConfig
from .process import StopRequest, stop_requests
from .task import Task

MEMBERS = 16  # settings, or seeds of fewer settings, that train at once
EVALUATIONS = 8  # of a run with all steps
EPISODES = 32  # of an evaluation, where those of config.py would take more steps than training
RUNGS = 6  # of the successive halving: on 1, 4, 16, 32, 48 and 64 seeds
SOLVED_RUNGS = 18  # with a threshold: on 16 more each time, to 256, while it is reached on all
SHOWN = 3  # settings in the table, besides those of config.py
LEADERS = 3  # structures that are searched on after each got a round
MAX_BYTES = 1e9  # of the observations that all members collect for an update

BATCHES: dict[str, dict[str, Any]] = {
    # The defaults of this project.
    "large": {
        **{"num_envs": 16, "unroll_length": 16, "batch_size": 16, "num_minibatches": 16},
        **{"num_updates_per_batch": 8, "learning_rate_schedule": "linear", "max_grad_norm": 1.0},
    },
    # Those of CleanRL's ppo.py (Huang et al. 2022, JMLR 23:274).
    "small": {
        **{"num_envs": 4, "unroll_length": 128, "batch_size": 1, "num_minibatches": 4},
        **{"num_updates_per_batch": 4, "learning_rate_schedule": "linear", "max_grad_norm": 0.5},
    },
    "own": {},
}
# Searched on a logarithmic scale; those of `FROM_1` as their distances from 1.
RANGES = {
    "learning_rate": (1e-4, 1e-2),
    "entropy_cost": (1e-4, 1e-1),
    "discounting": (1e-3, 1e-1),
    "gae_lambda": (1e-2, 2e-1),
    "clipping_epsilon": (0.1, 0.4),
    "normalize_advantage_decay": (1e-2, 1.0),
    "reward_scaling": (1e-2, 1e1),
}
FROM_1 = ("discounting", "gae_lambda", "normalize_advantage_decay")


class Structure(NamedTuple):
    """What all members of a round share."""

    batches: str
    normalize_observations: bool
    init_value_from_rollouts: bool

    def __str__(self) -> str:
        return f"{self.batches} batches, {'' if self.normalize_observations else 'not '}normalised"

    def settings(self) -> dict[str, Any]:
        """As keyword arguments of `PPOConfig`."""
        _, *rest = self._fields
        return {**BATCHES[self.batches], **{name: getattr(self, name) for name in rest}}


@dataclass(frozen=True)
class Result:
    """Settings, and what several seeds reached with them.

    Attributes:
      settings: keyword arguments of `PPOConfig`; empty for those of config.py.
      curves: one for each seed.
      rung: the last one that they reached, from 0; config.py is on the highest one that any are
        on, and at least on 1.
    """

    settings: dict[str, Any]
    curves: Curves
    rung: int

    @property
    def score(self) -> float:
        """What is maximised: the mean of all evaluations, of which the n-th counts n^3 times.

        So the return at the end counts most, and among settings that end at the same return the
        one that reached it first wins. It is a mean over seeds, because one seed that fails has to
        cost more than slowness. NaN if one has diverged.
        """
        means = self.curves.returns.mean(axis=1)
        return float(np.average(means, weights=np.arange(1, len(means) + 1) ** 3))

    def solved_after(self, threshold: float) -> np.ndarray:
        """(seeds,) steps after which the return stays at the threshold or above; else infinity."""
        stays = np.logical_and.accumulate(self.curves.returns[::-1] >= threshold)[::-1]
        return np.where(stays[-1], self.curves.steps[stays.argmax(axis=0)], np.inf)

    def solves(self, threshold: float | None) -> bool:
        """Whether every seed ends at the threshold or above; False if there is none."""
        return threshold is not None and bool((self.curves.returns[-1] >= threshold).all())


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

    What is found is kept in the folder. Another call goes on from there, also at the same time in
    another process. For another environment, other networks or other settings a new search starts
    beside the old one. SIGINT (Ctrl-C), SIGTERM and SIGHUP end the search after the updates in
    progress; what is known by then is kept and printed.

    Args:
      task: its environment and networks stay as they are, its settings are improved. Settings
        train for its `num_timesteps`, or for what fits the minutes if that is less.
      name: what `config.py` calls it.
      minutes: how long to search, compiling included; 0 prints what was found before.
      threshold: the return at which the task is solved. The search ends when settings reach it on
        all of 256 seeds.
      folder: where to keep the search; `tune/<name>` if None.
      console: where progress is shown; stdout if None.

    Returns:
      The best settings that are known, which may be those of the task.

    Raises:
      UsageError: Optuna is missing, the folder can't be used, or nothing was found.
      TrainingStopped: a signal ended the search.
      OutOfMemoryError: the device has too little memory for so many members.
    """
    if not 0 <= minutes < float("inf"):
        raise UsageError("--minutes has to be 0 or more.")
    if threshold is not None and not np.isfinite(threshold):
        raise UsageError("--threshold has to be a finite number.")
    console = console or Console()
    with stop_requests() as request:
        place = folder or Path("tune") / name
        search = _Search(task, place, console, minutes, threshold, request)
        with contextlib.suppress(_Stopped):
            search.run()
        results = search.results()
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


class _Stopped(Exception):
    """A signal has come, or the time is over."""


class _Search:
    """One call of `tune`: the study, the programs and the time that is left."""

    def __init__(
        self,
        task: Task,
        folder: Path,
        console: Console,
        minutes: float,
        threshold: float | None,
        request: StopRequest,
    ) -> None:
        self.optuna = _import_optuna()
        self.states = self.optuna.trial.TrialState
        self.task, self.console = task, console
        self.threshold, self.request = threshold, request
        self.rungs = RUNGS if threshold is None else SOLVED_RUNGS
        self.seconds = 60 * minutes
        self.deadline = time.monotonic() + self.seconds
        self.steps = task.settings.num_timesteps
        members, self.structures = _structures(task)
        self.trainer = Trainer(task, members, console, self._check)
        made = self.optuna.distributions.FloatDistribution
        self.space = {name: made(*RANGES[name], log=True) for name in NUMBERS}
        if not task.settings.normalize_advantage:
            del self.space["normalize_advantage_decay"]  # it would have no effect
        self.studies = self._open(folder)
        self.first = self.studies[self.structures[0]]  # holds what is the same for all of them

    def _open(self, folder: Path) -> dict[Structure, Any]:
        """The studies in this folder that are of this task and this space."""
        found = fingerprint.describe(self.task.environment(), self.task.make_ppo())
        of = {key: x for key, x in found.items() if key not in ("versions", "device")}
        of["settings"] = dataclasses.asdict(self.task.settings)
        of["space"] = [BATCHES, {name: repr(x) for name, x in self.space.items()}]
        name = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]
        journal = folder / "journal.log"
        files.refuse_link(journal)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            backend = self.optuna.storages.journal.JournalFileBackend(str(journal))
            storage = self.optuna.storages.JournalStorage(backend)
            others = self.optuna.get_all_study_names(storage)
            studies = {
                structure: self.optuna.create_study(
                    study_name=f"{name}, {structure}",
                    storage=storage,
                    sampler=self.optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
                    direction="maximize",
                    load_if_exists=True,
                )
                for structure in self.structures
            }
        except OSError as error:
            raise UsageError(
                f"{folder} can't be used ({files.reason(error)}): name another --folder."
            ) from None
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f"{journal} is damaged: delete it, or name another --folder."
            ) from None
        if any(study.study_name in others for study in studies.values()):
            trials = [trial for study in studies.values() for trial in study.trials]
            count = sum("next_rung" not in trial.user_attrs for trial in trials)
            self._say(f"Going on with the search in {folder}: {count} settings so far.")
        elif others:
            self._say(
                f"The search in {folder} was for another environment, other networks or other "
                "settings in config.py, so a new one starts beside it."
            )
        return studies

    # ---- the order of things --------------------------------------------------------------------

    def run(self) -> None:
        """Until the threshold is reached; `_Stopped` is raised when the time is over."""
        if not self.seconds:
            return
        self._choose_steps()
        if self._own().solves(self.threshold):
            self._say("The settings of config.py reach the threshold on every seed.")
            return
        while not self._is_solved():
            self._round()

    def _is_solved(self) -> bool:
        found = self.results()
        return any(x.rung == self.rungs - 1 and x.solves(self.threshold) for x in found)

    def _choose_steps(self) -> None:
        """How long settings train: the same in all calls of a search."""
        asked = self.task.settings.num_timesteps
        if "steps" not in self.first.user_attrs:
            config = self._config(self.structures[0])
            # A tenth of the time for a run leaves time for some structures.
            fits = self.trainer.speed(config) * self.seconds / 10
            fits = float(f"{max(fits, EVALUATIONS * config.steps_per_update):.1g}")
            if "steps" not in self.first.user_attrs:  # another process may have been faster
                self.first.set_user_attr("steps", min(asked, int(fits)))
        self.steps = self.first.user_attrs["steps"]
        if self.steps < asked:
            self._say(
                f"Settings train for {self.steps:,} steps rather than {asked:,}, which would take "
                "too much of the time."
            )

    def _own(self) -> Result:
        """Trains with the settings of config.py, which the others have to beat.

        If they solve the task they are confirmed on more seeds, as others are.
        """
        own = self.task.settings
        structure = next(
            x for x in self.structures if dataclasses.replace(own, **x.settings()) == own
        )
        saved = self.first.user_attrs.get("own")
        curves = _loaded(saved) if saved else None
        for i, seed in enumerate(self._confirming()):
            if curves is not None and i * self.trainer.count < curves.returns.shape[1]:
                continue
            if curves is not None and not Result({}, curves, 1).solves(self.threshold):
                break
            (more,) = self._train(structure, [{}], seed, self.steps)
            curves = curves.beside(more) if curves else more
            self.first.set_user_attr("own", _saved(curves))
            self._say(f"config.py has {self._summary([curves])}")
        return Result({}, _loaded(self.first.user_attrs["own"]), 1)

    def _round(self) -> None:
        """Trains new settings, and the best of them again on more seeds."""
        structure, trials, first = self._ask()
        fresh = 10_000 + 2 * self.trainer.count * trials[0].number
        seeds = (fresh, fresh + self.trainer.count, *self._confirming())
        going_on = trials
        state = self.states.FAIL  # a structure without other trials gets a round again
        try:
            for rung, seed in list(enumerate(seeds))[first:]:
                numbers = [_numbers(trial.params) for trial in going_on]
                steps = self.steps if rung else self.steps // 2
                found = self._train(structure, numbers, seed, steps)
                state = self.states.PRUNED
                scores = {}
                if rung > 2:  # one setting, whose seeds before these count too
                    found = [_loaded(going_on[0].user_attrs["curves"]).beside(found[0])]
                for trial, curves in zip(going_on, found, strict=True):
                    score = Result({}, curves, rung).score
                    if np.isfinite(score):
                        scores[trial] = score
                        # In this order: another process may read what is reported at once.
                        trial.set_user_attr("curves", _saved(curves))
                        trial.report(score, rung)
                if rung == self.rungs - 1:
                    for trial, score in scores.items():
                        self.studies[structure].tell(trial, score)
                        trials.remove(trial)
                best = self._going_on(scores, rung)
                if rung:
                    self._say(f"{structure}: {self._summary(found)}")
                else:
                    diverged = f", {len(found) - len(scores)} diverged" * (len(scores) < len(found))
                    self._say(f"{structure}: {len(found)} settings{diverged}, {len(best)} go on")
                going_on = best
                if not going_on:
                    break
        except _Stopped:
            if rung > 2:
                attrs = going_on[0].user_attrs | {"next_rung": rung}
                self.studies[structure].enqueue_trial(going_on[0].params, user_attrs=attrs)
            raise
        finally:
            # Optuna ranks these by the rung, then by the score; what diverged at once comes last.
            for trial in trials:
                self.studies[structure].tell(trial, state=state)

    def _confirming(self) -> list[int]:
        """The first seeds of the rungs on which one setting trains alone."""
        own = self.task.settings.seed
        return [(own + i * self.trainer.count) % 2**32 for i in range(self.rungs - 2)]

    def _ask(self) -> tuple[Structure, list[Any], int]:
        """What a round trains, and its first rung: each structure once, then the best ones in turn.

        Before that, settings whose confirmation was stopped.
        """
        for structure, study in self.studies.items():
            if study.get_trials(deepcopy=False, states=(self.states.WAITING,)):
                trial = study.ask(self.space)
                return structure, [trial], trial.user_attrs.get("next_rung", 0)
        best: dict[Structure, Any] = {}
        for structure, trial in self._trials():
            if trial.state == self.states.FAIL:
                continue
            known = trial.intermediate_values
            order = self._order(self._result(structure, trial)) if known else (1,)
            best[structure] = min(order, best.get(structure, order))
        left = [structure for structure in self.structures if structure not in best]
        left = left or sorted(best, key=lambda structure: best[structure])[:LEADERS]
        structure = min(left, key=lambda structure: len(self.studies[structure].trials))
        study = self.studies[structure]
        return structure, [study.ask(self.space) for _ in range(self.trainer.count)], 0

    def _going_on(self, scores: Mapping[Any, float], rung: int) -> list[Any]:
        """Those whose score is among the best quarter of all rounds, best first.

        One that has trained on 16 seeds or more goes on if it solves the task on all of them.
        """
        if rung > 1 and self.threshold is not None:
            ends = {trial: _loaded(trial.user_attrs["curves"]).returns[-1] for trial in scores}
            return [trial for trial in scores if (ends[trial] >= self.threshold).all()]
        all_scores = [trial.intermediate_values.get(rung) for _, trial in self._trials()]
        least = np.quantile([x for x in all_scores if x is not None], 0.75) if scores else 0.0
        good = [trial for trial in scores if scores[trial] >= least]
        count = max(1, self.trainer.count // 4 ** (rung + 1))
        return sorted(good, key=lambda trial: -scores[trial])[:count]

    def _train(
        self, structure: Structure, numbers: list[dict[str, float]], seed: int, steps: int
    ) -> list[Curves]:
        """Trains each of the settings, on as many seeds as there are members for it.

        A number that is not given is that of config.py. What the end of the time has cut off says
        nothing, so it is not kept.
        """
        count, config = self.trainer.count, self._config(structure)
        own = {name: getattr(self.task.settings, name) for name in NUMBERS}
        try:
            self.trainer.compiled(config)
            found = self.trainer.train(
                config,
                ([own | given for given in numbers] * count)[:count],
                seed=seed,
                steps=steps,
                evaluations=max(1, round(EVALUATIONS * steps / self.steps)),
                seconds=min(self._left(), self.seconds / 6),
            )
        except OutOfMemoryError:
            raise OutOfMemoryError(
                f"The device has too little memory to train {count} settings at once with "
                f"{structure}: use smaller batches in config.py, or JAX_PLATFORMS=cpu."
            ) from None
        if self._left() <= 0:
            raise _Stopped
        each = len(numbers)
        return [Curves(found.steps, found.returns[:, i::each]) for i in range(each)]

    def _config(self, structure: Structure) -> PPOConfig:
        own = self.task.settings
        as_long = self.steps // (EVALUATIONS * own.episode_length)  # together as training
        return dataclasses.replace(
            own,
            **structure.settings(),
            num_timesteps=self.steps,
            num_eval_envs=min(max(EPISODES, as_long), own.num_eval_envs),
        )

    def results(self) -> list[Result]:
        """All that is known, in `_order`; what was confirmed in two calls is there once."""
        found = [self._result(*x) for x in self._trials() if x[1].intermediate_values]
        if "own" in self.first.user_attrs:
            rung = max([1, *(result.rung for result in found)])
            found.append(Result({}, _loaded(self.first.user_attrs["own"]), rung))
        best: dict[str, Result] = {}
        for result in sorted((x for x in found if np.isfinite(x.score)), key=self._order):
            best.setdefault(str(result.settings), result)
        return list(best.values())

    def _order(self, result: Result) -> tuple[float, ...]:
        """Smaller for a better one."""
        return -result.rung, not result.solves(self.threshold), -result.score

    def _result(self, structure: Structure, trial: Any) -> Result:
        settings = structure.settings() | _numbers(trial.params)
        return Result(settings, _loaded(trial.user_attrs["curves"]), max(trial.intermediate_values))

    def _trials(self) -> list[tuple[Structure, Any]]:
        return [
            (structure, trial)
            for structure, study in self.studies.items()
            for trial in study.get_trials(deepcopy=False)
        ]

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _check(self) -> None:
        if self.request.signal:
            raise _Stopped

    def _summary(self, found: list[Curves]) -> str:
        """The best of some settings that trained on the same number of seeds."""
        known = [curves for curves in found if np.isfinite(curves.returns).all()]
        if not known:
            return "all have diverged"
        best = max(known, key=lambda curves: Result({}, curves, 0).score)
        last = best.returns[-1]
        seeds = f"{len(last)} seeds"
        if self.threshold is not None:
            seeds += f", of which {(last >= self.threshold).sum()} reach {self.threshold:g}"
        return f"return {interquartile_mean(last):.4g} after {best.steps[-1]:,} steps on {seeds}"

    def _say(self, text: str) -> None:
        Display(self.console, 1).say(text)


def table(own: PPOConfig, results: list[Result], threshold: float | None) -> Table:
    """The best settings, a column for each, and those of config.py."""
    shown = [result for result in results if result.settings][:SHOWN]
    shown += [result for result in results if not result.settings]
    columns = [str(n + 1) if result.settings else "config.py" for n, result in enumerate(shown)]
    last = [result.curves.returns[-1] for result in shown]
    intervals = [bootstrap_interval(x) if len(x) > 1 else None for x in last]
    made = Table(Column("", no_wrap=True), *columns)
    made.add_row("return", *(f"{interquartile_mean(x):.4g}" for x in last))
    made.add_row(
        "95 % interval", *("" if x is None else f"{x[0]:.4g} to {x[1]:.4g}" for x in intervals)
    )
    made.add_row("seeds", *(str(len(x)) for x in last))
    made.add_row("steps", *(f"{result.curves.steps[-1]:,}" for result in shown))
    if threshold is not None:
        solved = [result.solved_after(threshold) for result in shown]
        medians = [float(np.median(x)) for x in solved]
        made.add_row(f"seeds at {threshold:g}", *(str(np.isfinite(x).sum()) for x in solved))
        made.add_row("after steps", *(f"{x:,.0f}" if np.isfinite(x) else "-" for x in medians))
    made.add_section()
    for name in dict.fromkeys(name for result in shown for name in result.settings):
        made.add_row(name, *(str(x.settings.get(name, getattr(own, name))) for x in shown))
    return made


def _import_optuna() -> Any:
    commands.require("optuna", "tune", "tune")
    import optuna  # type: ignore[import-not-found, unused-ignore]

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna


def _structures(task: Task) -> tuple[int, list[Structure]]:
    """How many members fit the memory, and the structures to try, in this order."""
    own = task.settings
    obs = fingerprint.reset_shapes(task.environment()).obs
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(obs)) / own.action_repeat
    members = MEMBERS
    while members > 4 and members * size * own.steps_per_update > MAX_BYTES:
        members //= 2
    asked = own.normalize_observations
    found: dict[PPOConfig, Structure] = {}
    # Observations that are not centred need no value at the best constant, and explore better
    # without (docs/training.md). The first two structures differ most.
    for structure in (
        Structure("large", asked, asked),
        Structure("small", not asked, not asked),
        Structure("large", not asked, not asked),
        Structure("small", asked, asked),
        Structure("own", asked, own.init_value_from_rollouts),
        Structure("own", not asked, not asked),
    ):
        settings = dataclasses.replace(own, **structure.settings())
        if structure.batches == "own" or members * size * settings.steps_per_update <= MAX_BYTES:
            found.setdefault(settings, structure)
    return members, list(found.values())


def _numbers(params: Mapping[str, Any]) -> dict[str, float]:
    """The settings that members differ in, with the two digits that config.py gets."""
    found = {name: float(f"{value:.2g}") for name, value in params.items()}
    return found | {name: round(1 - found[name], 6) for name in FROM_1 if name in found}


def _saved(curves: Curves) -> dict[str, Any]:
    return {"steps": curves.steps.tolist(), "returns": curves.returns.tolist()}


def _loaded(saved: Mapping[str, Any]) -> Curves:
    return Curves(np.array(saved["steps"]), np.array(saved["returns"], float))
