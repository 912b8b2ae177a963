"""One training run, from a task to a run folder."""

import contextlib
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from rich.console import Console

from ..env.actions import action_space_of
from ..errors import TrainingDivergedError, TrainingStopped, UsageError
from ..ppo.schedule import linear_schedule
from ..ppo.settings import PPOConfig
from ..ppo.state import Totals, TrainingState
from ..ppo.task import Task
from . import curve, devices, files, folder, gif
from .advice import advice, few_updates
from .display import Display, number
from .programs import Programs
from .reports import Reporter, reporters, require_extras
from .signals import Saver, stop_requests

PROFILE = ("profile", "plugins", "profile")  # what jax.profiler makes, below the first one
CHUNK_SECONDS = 0.5  # from one look at signals, and one movement of the display, to the next

Row = dict[str, float]


@dataclass(frozen=True)
class Options:
    """How a run is executed, shown and saved; none of it changes what is learned.

    Raises:
      UsageError: a number is out of range.
    """

    num_devices: int | None = None
    """Devices to use; all by default. They share the seeds, or the environments of one seed."""
    checkpoint_every: float = 10.0
    """Minutes between saves of what --resume needs. Every evaluation saves it too."""
    keep: int = 10
    """How many of the newest checkpoints to keep; the best one is always kept."""
    tensorboard: bool = False
    """Write event files for TensorBoard to the run folder."""
    wandb: str | None = None
    """A Weights & Biases project to report to; needs the extra `wandb`."""
    profile: bool = False
    """Write a jax.profiler trace of some updates to the run folder."""

    def __post_init__(self) -> None:
        if self.keep < 1 or not 0 < self.checkpoint_every < float("inf"):
            raise UsageError("--keep has to be 1 or more, --checkpoint-every greater than 0.")


def train(
    task: Task,
    *,
    name: str = "task",
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    init_from: str | os.PathLike[str] | None = None,
    options: Options = Options(),
    report: Callable[[Mapping[str, float]], None] = lambda row: None,
    console: Console | None = None,
    program: str = "",
) -> Path:
    """Trains a policy, or one for each of several seeds, and leaves a run folder.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP end the run when the updates in progress are done, with
    everything saved. A second one ends the process at once and leaves what was saved before.

    Args:
      task: what to train.
      name: what `config.py` calls it.
      run_dir: the folder to make; `runs/<date and time>` if None.
      resume: go on from where `run_dir` was saved last, up to the task's `num_timesteps`; the other
        settings have to be those of the run. On one CPU the parameters are those of one
        uninterrupted run, bit for bit, unless `num_timesteps` is another one and the schedule
        `linear` had begun to lower the learning rate; see `_keep_learning_rate`.
      init_from: a run folder whose newest parameters a new run starts from.
      options: how to execute, show and save it.
      report: called with each row that metrics.jsonl gets.
      console: where progress is shown; stdout if None.
      program: what the commands in messages begin with, as `commands.again` gives it, and a space.

    Returns:
      The run folder; `kit.runs` says what is in it.

    Raises:
      UsageError: PPO can't train this task, or a run folder can't be used.
      TrainingDivergedError: a loss, an observation or a reward is not a finite number any more.
      TrainingStopped: a signal ended the run.
      OutOfMemoryError: the device has too little memory.
    """
    require_extras(options.tensorboard, options.wandb)
    config = task.settings
    programs = Programs(task, options.num_devices)
    console = console or Console()
    is_first = devices.is_first()
    console.quiet |= not is_first
    run = Path(run_dir) if run_dir is not None else None
    saved: folder.Saved | None = None  # what a resumed run goes on from
    start: dict[str, Any] = {}  # what the policy of another run consists of
    to_say: list[str] = []
    done = 0  # updates

    with contextlib.ExitStack() as stack:
        with devices.fail_together():
            if resume:
                if run is None:
                    raise UsageError("To resume, name the run folder.")
                if is_first:
                    stack.enter_context(folder.lock(run))
                saved, to_say = _load(run, task, programs)
                done = 0 if saved is None else int(np.max(saved.state.updates))
            elif is_first:
                folder.refuse_existing(run)
            if init_from is not None:
                start = _load_start(Path(init_from), programs)

        display = Display(console, _steps(config), done * config.steps_per_update)
        stack.enter_context(display)
        for text in to_say:
            display.say(text)
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            display.say("JAX_DISABLE_JIT is set: nothing is compiled, so training is slow.")
        else:
            with display.compiling():
                programs.compile()
        state = programs.init() if saved is None else saved.state
        state = programs.to_devices(state.replace(**start))
        if start:
            saved = folder.Saved(programs.to_host(state), programs.no_totals, np.zeros(()))

        reporter = Reporter()
        with devices.fail_together():
            if is_first:
                if run is None or not resume:
                    run = folder.make_folder(run)
                    stack.enter_context(folder.lock(run))
                if options.profile:
                    files.folder(run, *PROFILE)
                try:
                    reporter = reporters(
                        run,
                        config,
                        tensorboard=options.tensorboard,
                        wandb=options.wandb,
                        say=display.say,
                    )
                except UsageError:
                    if not resume:
                        shutil.rmtree(run)  # just made
                    raise
                stack.callback(reporter.close)
                if saved is not None:
                    # A run that starts from another one and stops early would start from its seed,
                    # and `replay` needs the learning rate that training goes on with.
                    folder.save_resume(run, saved)
                if resume:
                    folder.forget_after(run, done * config.steps_per_update)
                folder.write_config(run, name, task, programs.ppo, programs.num_devices)
        run = run or Path()
        seeds = f" for each of {config.num_seeds} seeds" if config.num_seeds > 1 else ""
        display.say(
            f"Training for {_steps(config):,} steps{seeds} ({config.num_timesteps:,} asked for), "
            f"which is {config.num_updates:,} updates of {config.steps_per_update:,}, into {run}"
        )
        if not resume:
            display.advise(few_updates(config, programs.num_devices))
        for place in reporter.places:
            display.say(place)

        def report_row(row: Row) -> None:
            if is_first:
                reporter.report(row)
                report(row)

        loop = _Loop(run, config, programs, display, options, report_row, program)
        if saved is not None:
            loop.totals, loop.seconds = saved.totals, saved.seconds.item()
            saved = None  # the state may be large
        try:
            loop.train(state, done)
        finally:
            if is_first:
                _draw(run, display)
        if reporter.places:
            _send_video(run, task, reporter, display)
    return run


def _steps(config: PPOConfig) -> int:
    return config.num_updates * config.steps_per_update


def _load(run: Path, task: Task, programs: Programs) -> tuple[folder.Saved | None, list[str]]:
    """What a resumed run goes on from, None if nothing was saved; and what to say about it."""
    config = task.settings
    saved = folder.read_settings(run)
    for field in fields(PPOConfig):
        before, now = getattr(saved, field.name), getattr(config, field.name)
        if now != before and field.name != "num_timesteps":
            raise UsageError(
                f"{field.name} is {before} in {run} and can't change in the middle of a run: leave "
                "it out, or start a new run from its policy with --init-from "
                f"{files.quoted(run)}."
            )
    folder.refuse_other_sizes(run, programs.environment)
    found = folder.load_resume(run, folder.Saved(programs.shapes, programs.no_totals, np.zeros(())))
    to_say = folder.changes_since(run, programs.environment, programs.ppo, programs.num_devices)
    if found is None:
        return None, [*to_say, "This run was stopped before anything was saved; it starts again."]
    steps = int(np.max(found.state.updates)) * config.steps_per_update
    # A run may have been stopped after its last update and before its last evaluation.
    if steps >= _steps(config) and any(row["steps"] == steps for row in folder.read_metrics(run)):
        raise UsageError(f"{run} has {steps:,} steps already; ask for more with --num-timesteps.")
    state = _keep_learning_rate(found.state, config)
    if state is not found.state:
        to_say.append(
            f"The learning rate goes on from {number(np.max(state.learning_rate))}, where the "
            f"schedule had brought it, and falls to 0 at the new end; --init-from "
            f"{files.quoted(run)} starts a new run at the full rate of {config.learning_rate}."
        )
    return found.replace(state=state), to_say


def _keep_learning_rate(state: TrainingState, config: PPOConfig) -> TrainingState:
    """Keeps the learning rate from jumping where a run goes on to another `num_timesteps`.

    The schedule `linear` depends on the length of a run. The full rate becomes the one from which
    the schedule of the new length leads to the rate of the last update. Where the rate had not
    begun to fall, and would not have at the new length, the same state is returned: the longer run
    equals an uninterrupted one.
    """
    done = int(np.max(state.updates))
    if config.learning_rate_schedule != "linear" or not 0 < done < config.num_updates:
        return state
    share = float(linear_schedule(done - 1, config.num_updates))
    factors = state.hyperparameters
    if np.allclose(factors.learning_rate * share, state.learning_rate, rtol=1e-5, atol=0):
        return state
    full = np.float32(state.learning_rate / share)
    return state.replace(hyperparameters=factors.replace(learning_rate=full))


def _load_start(run: Path, programs: Programs) -> dict[str, Any]:
    """Parameters and running statistics of another run, the same for each seed."""
    folder.refuse_other_sizes(run, programs.environment)
    state = folder.load_parameters(run, programs.member_shapes)
    return {
        name: jax.tree.map(
            lambda x, shape: np.broadcast_to(x, shape.shape),
            getattr(state, name),
            getattr(programs.shapes, name),
        )
        for name in folder.IN_CHECKPOINT
    }


def _draw(run: Path, display: Display) -> None:
    """Draws the learning curve; what goes wrong there must not hide why a run ended."""
    try:
        if len({row["steps"] for row in folder.read_metrics(run)}) > 1:
            curve.draw(run)
    except (OSError, UsageError) as error:
        display.say(f"No learning curve: {error}")


class _Loop:
    """Chunks of updates, evaluations, and what is shown, saved and reported after each."""

    def __init__(
        self,
        run: Path,
        config: PPOConfig,
        programs: Programs,
        display: Display,
        options: Options,
        report: Callable[[Row], None],
        program: str,
    ) -> None:
        self.run = run
        self.program = program
        self.config = config
        self.programs = programs
        self.display = display
        self.options = options
        self.report = report
        self.saver = Saver()
        self.saved_at = time.monotonic()
        self.profile_pending = options.profile and devices.is_first()
        # Evaluations, and some chunks of the first tenth of training for the advice.
        self.history: list[Row] = folder.read_metrics(run) if devices.is_first() else []
        self.watched = -1.0  # the share of training up to the last of these chunks
        self.totals, self.seconds = programs.no_totals, 0.0  # since the last evaluation

    def train(self, state: TrainingState, done: int) -> None:
        """Trains from `state`, which has `done` updates, to the end of the run."""
        config = self.config
        evaluated_at = {row["steps"] for row in self.history}
        spent = {"training": 0.0, "evaluation": 0.0}  # seconds
        chunk = 1  # updates
        if done * config.steps_per_update in evaluated_at:  # and was killed before it was saved
            self.totals, self.seconds = self.programs.no_totals, 0.0
        with stop_requests() as request, self.saver:
            for target in evaluations(config):
                is_known = target * config.steps_per_update in evaluated_at
                if target < done or devices.max_over_processes(is_known)[0]:
                    continue
                while done < target:
                    updates = min(chunk, target - done)
                    state, new, taken = self._updates(state, updates, done, target)
                    done += updates
                    spent["training"] += taken
                    self.totals = jax.tree.map(np.add, self.totals, new)
                    self.seconds += taken
                    self._show(new, done, taken)
                    chunk = max(1, min(10 * updates, int(CHUNK_SECONDS * updates / taken)))
                    waited = time.monotonic() - self.saved_at
                    is_due = int(waited > 60 * self.options.checkpoint_every)
                    chunk, is_due, stop = devices.max_over_processes(chunk, is_due, request.signal)
                    if is_due or stop:
                        self._save(state, done)
                    if stop:
                        self._stop(stop, done)

                values: dict[str, Any] = {}
                if np.max(self.totals.updates) > 0:
                    values = self._means(self.totals, self.seconds)
                self.totals, self.seconds = self.programs.no_totals, 0.0
                start = time.perf_counter()
                values |= self.programs.evaluate(state)
                spent["evaluation"] += time.perf_counter() - start
                rows = self._rows(values, done)
                self._refuse_broken_returns(rows)
                self.history += rows
                on_host = self._save(state, done, rows)
                for row in rows:
                    self.report(row)
                self.display.say(_line(rows))
                self._advise(on_host.normalizer_params)
                (stop,) = devices.max_over_processes(request.signal)
                if stop and done < config.num_updates:
                    self._stop(stop, done)
        share = spent["evaluation"] / (sum(spent.values()) or 1)
        self.display.say(
            f"Trained for {spent['training']:,.1f} s; evaluation took another "
            f"{spent['evaluation']:,.1f} s ({share:.0%})."
        )

    def _updates(
        self, state: TrainingState, updates: int, done: int, target: int
    ) -> tuple[TrainingState, Totals, float]:
        """The state after so many updates, their sums, and the seconds that they took."""
        profiled = self.profile_pending and (updates > 1 or done + updates == target)
        if profiled:
            self.profile_pending = False
            jax.profiler.start_trace(str(self.run / PROFILE[0]))
        start = time.perf_counter()
        state, totals = self.programs.epoch(state, updates)
        taken = time.perf_counter() - start
        if profiled:
            try:
                jax.profiler.stop_trace()
            except RuntimeError as error:  # on a full disk
                self.display.say(f"No profile: {str(error).splitlines()[0]}.")
        self._refuse_not_finite(totals, done + updates)
        return state, totals, taken

    def _show(self, totals: Totals, done: int, seconds: float) -> None:
        values = self._means(totals, seconds)
        with warnings.catch_warnings(action="ignore"):  # no episode has ended in any seed
            means = {name: float(np.nanmean(x)) for name, x in values.items()}
        steps = done * self.config.steps_per_update
        self.display.progress(steps, means["training/sps"], means)
        share = done / self.config.num_updates
        if self.watched <= 0.1 and share > self.watched + 0.001:
            self.watched = share
            self.history += self._rows(values, done)
            self._advise()

    def _means(self, totals: Totals, seconds: float) -> dict[str, np.ndarray]:
        steps = int(np.max(totals.updates)) * self.config.steps_per_update
        return {**totals.means(), "training/sps": np.array(steps / seconds)}

    def _rows(self, values: Mapping[str, np.ndarray], done: int) -> list[Row]:
        """A row for each seed; numbers that are not finite are left out, such as the return of no
        episode, but for the return of an evaluation."""
        rows = []
        for member, seed in enumerate(folder.seeds_of(self.config)):
            row: Row = {"steps": done * self.config.steps_per_update, "seed": seed}
            for name, x in values.items():
                value = float(np.broadcast_to(x, (self.config.num_seeds,))[member])
                if np.isfinite(value) or name == RETURN:
                    row[name] = value
            rows.append(row)
        return rows

    def _advise(self, statistics: Any = None) -> None:
        self.display.advise(
            advice(
                self.config, action_space_of(self.programs.environment), self.history, statistics
            )
        )

    def _save(self, state: TrainingState, done: int, rows: Sequence[Row] = ()) -> TrainingState:
        """Saves what a resumed run needs and, after an evaluation, parameters and metrics.

        Returns:
          `state`, copied to the host.
        """
        self.saved_at = time.monotonic()
        on_host = self.programs.to_host(state)
        to_resume = folder.Saved(on_host, self.totals, np.array(self.seconds))
        best = self._best() if rows else 0

        def write() -> None:
            # In this order: a resumed run forgets rows that are newer than what it goes on from.
            if rows:
                folder.save_checkpoint(self.run, on_host, done * self.config.steps_per_update)
                folder.append_metrics(self.run, rows)
            folder.save_resume(self.run, to_resume)
            if rows:
                folder.keep(self.run, self.options.keep, best)

        if devices.is_first():
            self.saver.start(write)
        return on_host

    def _best(self) -> int:
        """The steps of the evaluation with the highest return, the mean over seeds."""
        returns: dict[int, list[float]] = {}
        for row in self.history:
            if RETURN in row:
                returns.setdefault(int(row["steps"]), []).append(row[RETURN])
        return max(returns, key=lambda steps: float(np.mean(returns[steps])), default=0)

    def _stop(self, number: int, done: int) -> None:
        self._wait()
        self.display.say(
            f"Stopped and saved at step {done * self.config.steps_per_update:,}. "
            f"Continue with: {self.program}train --resume {files.quoted(self.run)}"
        )
        raise TrainingStopped(number)

    def _wait(self) -> None:
        """Until everything is written, in all processes: when one ends, others may be ended too."""
        self.saver.wait()
        devices.max_over_processes(0)

    def _refuse_not_finite(self, totals: Totals, done: int) -> None:
        broken = np.atleast_1d(totals.not_finite > 0)
        if broken.any():
            what = "An observation, a reward or done was NaN or infinite"
            self._diverged(what, "", done, int(np.argmax(broken)))
        for name, x in totals.metrics.items():
            broken = ~np.isfinite(np.atleast_1d(x))
            if broken.any():
                member = int(np.argmax(broken))
                remedy = "Try a smaller --learning-rate or --max-grad-norm. "
                self._diverged(f"{name} was {np.atleast_1d(x)[member]}", remedy, done, member)

    def _refuse_broken_returns(self, rows: Sequence[Row]) -> None:
        for member, row in enumerate(rows):
            if np.isfinite(row[RETURN]):
                continue
            if not row["steps"]:
                raise TrainingDivergedError(
                    f"The return of an evaluation was {row[RETURN]} before any training: the "
                    "environment returns it. Find out where it comes from with `check`, or with: "
                    f"{self.program}replay {files.quoted(self.run)}"
                )
            done = round(row["steps"]) // self.config.steps_per_update
            self._diverged(f"The return of an evaluation was {row[RETURN]}", "", done, member)

    def _diverged(self, what: str, remedy: str, done: int, member: int) -> NoReturn:
        self._wait()
        of_seed = f" (seed {folder.seeds_of(self.config)[member]})" * (self.config.num_seeds > 1)
        raise TrainingDivergedError(
            f"{what}{of_seed} by step {done * self.config.steps_per_update:,}, so training was "
            f"stopped. What was saved before is kept. {remedy}Find out where it came from with: "
            f"{self.program}replay {files.quoted(self.run)}"
        )


RETURN = "eval/episode_reward"
TRAINING_RETURN = "training/episode_reward"


def evaluations(config: PPOConfig) -> list[int]:
    """The numbers of updates at which to evaluate, evenly spaced from 0 to all."""
    number = min(config.num_evals, config.num_updates + 1)
    return [int(mark) for mark in np.linspace(0, config.num_updates, number).round()]


def _line(rows: Sequence[Row]) -> str:
    """An evaluation, of the mean over seeds."""

    def mean(name: str) -> float:
        return float(np.mean([row[name] for row in rows]))

    # Over episodes for one seed, over seeds for several.
    spread = (
        mean("eval/episode_reward_std")
        if len(rows) == 1
        else float(np.std([row[RETURN] for row in rows]))
    )
    speed = f"{mean('training/sps'):10,.0f} steps/s" if "training/sps" in rows[0] else ""
    of_training = [row[TRAINING_RETURN] for row in rows if TRAINING_RETURN in row]
    beside = f"in training {number(float(np.mean(of_training))):>9}" if of_training else ""
    return (
        f"{rows[0]['steps']:>12,} steps   return {number(mean(RETURN)):>9} ± {number(spread)}   "
        f"{beside:21}   length {mean('eval/avg_episode_length'):6.1f}   {speed}"
    ).rstrip()


def _send_video(run: Path, task: Task, reporter: Reporter, display: Display) -> None:
    """Draws episodes of the best checkpoint for those that a run reports to."""
    steps, seed = folder.best(run)
    path = run / "best.gif"
    try:
        gif.write_gif(
            path,
            task,
            folder.load_policy(run, task, steps=steps, seed=seed),
        )
        reporter.video(path, steps)
    except (OSError, UsageError) as error:
        display.say(f"No video: {error}.")
