"""The loop of a training run: updates, evaluations, and what is shown and saved after each."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from ..env.actions import action_space_of
from ..errors import TrainingDivergedError, TrainingStopped
from ..ppo.settings import PPOConfig
from ..ppo.state import Totals, TrainingState
from . import devices, files, folder
from .advice import advice
from .display import RETURN, Display, Row, evaluation_line
from .options import Options
from .programs import Programs, next_chunk
from .signals import StopRequest, stop_requests

PROFILE = ("profile", "plugins", "profile")  # what jax.profiler makes, below the first one


def evaluations(settings: PPOConfig) -> list[int]:
    """The numbers of updates at which to evaluate, evenly spaced from 0 to all."""
    count = min(settings.num_evals, settings.num_updates + 1)
    return [int(mark) for mark in np.linspace(0, settings.num_updates, count).round()]


class Loop:
    """Chunks of updates, evaluations, and what is shown, saved and reported after each."""

    def __init__(
        self,
        run: Path,
        programs: Programs,
        settings: PPOConfig,
        display: Display,
        report: Callable[[Row], None],
        options: Options,
        program: str,
    ) -> None:
        self.run, self.programs, self.settings = run, programs, settings
        self.display, self.report, self.program = display, report, program
        self.options = options
        self.saver = ThreadPoolExecutor(1)  # writes while training goes on
        self.saving: Future[None] | None = None
        self.saved_at = time.monotonic()
        self.profile_pending = options.profile and devices.is_first()
        # Evaluations, and some chunks of the first tenth of training for the advice.
        self.history: list[Row] = [*folder.read_metrics(run)] if devices.is_first() else []
        self.watched = -1.0  # the share of training up to the last of these chunks
        self.totals, self.seconds = programs.no_totals, 0.0  # since the last evaluation
        self.done, self.chunk = 0, 1  # updates
        self.spent = {"training": 0.0, "evaluation": 0.0}  # seconds

    @property
    def steps(self) -> int:
        return self.done * self.settings.steps_per_update

    def train(self, state: TrainingState, done: int = 0, saved: folder.Saved | None = None) -> None:
        """Trains from `state`, which has `done` updates, to the end of the run."""
        self.done = done
        if saved is not None:
            self.totals, self.seconds = saved.totals, saved.seconds.item()
        evaluated_at = {row["steps"] for row in self.history}
        if self.steps in evaluated_at:  # and was killed before it was saved
            self.totals, self.seconds = self.programs.no_totals, 0.0
        with stop_requests() as request, self.saver:
            for target in evaluations(self.settings):
                is_known = target * self.settings.steps_per_update in evaluated_at
                if target < done or devices.max_over_processes(is_known)[0]:
                    continue
                while self.done < target:
                    state = self._update(state, target, request)
                self._evaluate(state)
                (stop,) = devices.max_over_processes(request.signal)
                if stop and self.done < self.settings.num_updates:
                    self._stop(stop)
            self._wait()
        share = self.spent["evaluation"] / (sum(self.spent.values()) or 1)
        self.display.say(
            f"Trained for {self.spent['training']:,.1f} s; evaluation took another "
            f"{self.spent['evaluation']:,.1f} s ({share:.0%})."
        )

    def _update(self, state: TrainingState, target: int, request: StopRequest) -> TrainingState:
        """The state after a chunk of updates."""
        updates = min(self.chunk, target - self.done)
        profiled = self.profile_pending and (updates > 1 or self.done + updates == target)
        with self._profiling() if profiled else contextlib.nullcontext():
            start = time.perf_counter()
            state, totals = self.programs.epoch(state, updates)
            taken = time.perf_counter() - start
        self.done += updates
        self._refuse_not_finite(totals)
        self.spent["training"] += taken
        self.totals = jax.tree.map(np.add, self.totals, totals)
        self.seconds += taken
        self._show(self._means(totals, taken))
        is_due = int(time.monotonic() - self.saved_at > 60 * self.options.checkpoint_every)
        self.chunk, is_due, stop = devices.max_over_processes(
            next_chunk(updates, taken), is_due, request.signal
        )
        if is_due or stop:
            self._save(state)
        if stop:
            self._stop(stop)
        return state

    @contextlib.contextmanager
    def _profiling(self) -> Iterator[None]:
        self.profile_pending = False
        jax.profiler.start_trace(str(self.run / PROFILE[0]))
        yield
        try:
            jax.profiler.stop_trace()
        except RuntimeError as error:  # on a full disk
            self.display.say(f"No profile: {str(error).splitlines()[0]}.")

    def _show(self, values: Mapping[str, np.ndarray]) -> None:
        with warnings.catch_warnings(action="ignore"):  # no episode has ended in any seed
            means = {name: float(np.nanmean(x)) for name, x in values.items()}
        self.display.progress(self.steps, means["training/sps"], means)
        share = self.done / self.settings.num_updates
        if self.watched <= 0.1 and share > self.watched + 0.001:
            self.watched = share
            self.history += self._rows(values)
            self._advise()

    def _evaluate(self, state: TrainingState) -> None:
        values: dict[str, Any] = {}
        if np.max(self.totals.updates) > 0:
            values = self._means(self.totals, self.seconds)
        self.totals, self.seconds = self.programs.no_totals, 0.0
        start = time.perf_counter()
        values |= self.programs.evaluate(state)
        self.spent["evaluation"] += time.perf_counter() - start
        rows = self._rows(values)
        self._refuse_broken_returns(rows)
        self.history += rows
        on_host = self._save(state, rows)
        for row in rows:
            self.report(row)
        self.display.say(evaluation_line(rows))
        self._advise(on_host.normalizer_params)

    def _means(self, totals: Totals, seconds: float) -> dict[str, np.ndarray]:
        steps = int(np.max(totals.updates)) * self.settings.steps_per_update
        return {**totals.means(), "training/sps": np.array(steps / seconds)}

    def _rows(self, values: Mapping[str, np.ndarray]) -> list[Row]:
        """A row for each seed; numbers that are not finite are left out, such as the return of no
        episode, but for the return of an evaluation."""
        rows: list[Row] = []
        for member, seed in enumerate(folder.seeds_of(self.settings)):
            row: dict[str, float] = {"steps": self.steps, "seed": seed}
            for name, x in values.items():
                value = float(np.broadcast_to(x, (self.settings.num_seeds,))[member])
                if np.isfinite(value) or name == RETURN:
                    row[name] = value
            rows.append(row)
        return rows

    def _advise(self, statistics: Any = None) -> None:
        space = action_space_of(self.programs.environment)
        self.display.advise(advice(self.settings, space, self.history, statistics))

    # ---- saving and stopping --------------------------------------------------------------------

    def _save(self, state: TrainingState, rows: Sequence[Row] = ()) -> TrainingState:
        """Saves what a resumed run needs and, after an evaluation, parameters and metrics.

        Returns:
          `state`, copied to the host.
        """
        self.saved_at, steps = time.monotonic(), self.steps
        on_host = self.programs.to_host(state)
        to_resume = folder.Saved(on_host, self.totals, np.array(self.seconds))
        best = self._best()

        def write() -> None:
            # In this order: a resumed run forgets rows that are newer than what it goes on from.
            if rows:
                folder.save_checkpoint(self.run, on_host, steps)
                folder.append_metrics(self.run, rows)
            folder.save_resume(self.run, to_resume)
            if rows:
                folder.keep(self.run, self.options.keep, best)

        if devices.is_first():
            if self.saving is not None:
                self.saving.result()
            self.saving = self.saver.submit(write)
        return on_host

    def _best(self) -> int:
        """The steps of the evaluation with the highest return, the mean over seeds."""
        returns: dict[int, list[float]] = {}
        for row in self.history:
            if RETURN in row:
                returns.setdefault(int(row["steps"]), []).append(row[RETURN])
        return max(returns, key=lambda steps: float(np.mean(returns[steps])), default=0)

    def _wait(self) -> None:
        """Until everything is written, in all processes: when one ends, others may be ended too."""
        if self.saving is not None:
            self.saving.result()  # raises the error of the thread
        devices.max_over_processes(0)

    def _stop(self, number: int) -> NoReturn:
        self._wait()
        self.display.say(
            f"Stopped and saved at step {self.steps:,}. "
            f"Continue with: {self.program}train --resume {files.quoted(self.run)}"
        )
        raise TrainingStopped(number)

    def _refuse_not_finite(self, totals: Totals) -> None:
        broken = np.atleast_1d(totals.not_finite > 0)
        if broken.any():
            what = "An observation, a reward or done was NaN or infinite"
            self._diverged(what, int(np.argmax(broken)))
        for name, x in totals.metrics.items():
            broken = ~np.isfinite(np.atleast_1d(x))
            if broken.any():
                member = int(np.argmax(broken))
                remedy = "Try a smaller --learning-rate or --max-grad-norm. "
                self._diverged(f"{name} was {np.atleast_1d(x)[member]}", member, remedy)

    def _refuse_broken_returns(self, rows: Sequence[Row]) -> None:
        for member, row in enumerate(rows):
            what = f"The return of an evaluation was {row[RETURN]}"
            if not np.isfinite(row[RETURN]) and row["steps"]:
                self._diverged(what, member)
            if not np.isfinite(row[RETURN]):
                raise TrainingDivergedError(
                    f"{what} before any training: the environment returns it. Find out where it "
                    f"comes from with `check`, or with: {self._replay()}"
                )

    def _diverged(self, what: str, member: int, remedy: str = "") -> NoReturn:
        self._wait()
        seed = folder.seeds_of(self.settings)[member]
        of_seed = f" (seed {seed})" if self.settings.num_seeds > 1 else ""
        raise TrainingDivergedError(
            f"{what}{of_seed} by step {self.steps:,}, so training was stopped. What was saved "
            f"before is kept. {remedy}Find out where it came from with: {self._replay()}"
        )

    def _replay(self) -> str:
        return f"{self.program}replay {files.quoted(self.run)}"
