"""One training run, from a task to a run folder."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from ..errors import UsageError
from ..ppo.schedule import linear_schedule
from ..ppo.settings import PPOConfig
from ..ppo.state import TrainingState
from ..ppo.task import Task
from . import commands, curve, devices, files, folder, gif
from .advice import few_updates
from .display import Display, Row, number
from .loop import PROFILE, Loop
from .options import Options
from .programs import Programs
from .reports import Reporter, reporters


def train(
    task: Task,
    *,
    name: str = "task",
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    init_from: str | os.PathLike[str] | None = None,
    options: Options | None = None,
    report: Callable[[Row], None] = lambda row: None,
    console: Console | None = None,
    program: str = "",
) -> Path:
    """Trains a policy, or one for each of several seeds, and leaves a run folder.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP end the run when the updates in progress are done, with
    everything saved. A second one ends the process and leaves what was saved before.

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
      The run folder; `kit/run/folder.py` says what is in it.

    Raises:
      UsageError: PPO can't train this task, or a run folder can't be used.
      TrainingDivergedError: a loss, an observation or a reward is not a finite number any more.
      TrainingStopped: a signal ended the run.
      OutOfMemoryError: the device has too little memory.
    """
    options = options or Options()
    if options.wandb is not None:
        commands.require("wandb", "--wandb", "wandb")
    settings, programs = task.settings, Programs(task, options.num_devices)
    console = console or Console()
    console.quiet |= not devices.is_first()
    run = None if run_dir is None else Path(run_dir)
    with contextlib.ExitStack() as stack:
        with devices.fail_together():
            if resume:
                start = _resumed(stack, run, task, programs)
            else:
                start = _new(run, init_from, programs)
        display = Display(console, _steps(settings), start.done * settings.steps_per_update)
        stack.enter_context(display)
        state = _compiled(programs, start, display)
        with devices.fail_together():
            run, reporter = _opened(stack, start, name, task, programs, options, display)
        _introduce(run, settings, programs, display, resume)
        for place in reporter.places:
            display.say(place)

        def report_row(row: Row) -> None:
            if devices.is_first():
                reporter.report(row)
                report(row)

        loop = Loop(run, programs, settings, display, report_row, options, program)
        try:
            loop.train(state, start.done, start.saved)
        finally:
            if devices.is_first():
                _draw(run, display)
        if reporter.places:
            _send_video(run, task, reporter, display)
    return run


# ---- before the first update --------------------------------------------------------------------


@dataclass
class _Start:
    """What a run starts from.

    Attributes:
      run: its folder, if that has a name yet.
      resumes: whether the folder is there already.
      done: updates so far.
      saved: what a resumed run goes on from.
      policy: parameters and running statistics of another run, as fields of `TrainingState`.
      to_say: sentences for the user.
    """

    run: Path | None
    resumes: bool = False
    done: int = 0
    saved: folder.Saved | None = None
    policy: dict[str, Any] = field(default_factory=dict)
    to_say: list[str] = field(default_factory=list)


def _steps(settings: PPOConfig) -> int:
    return settings.num_updates * settings.steps_per_update


def _new(run: Path | None, init_from: str | os.PathLike[str] | None, programs: Programs) -> _Start:
    """A new run, from its seed or from the policy of another run, the same for each seed."""
    if devices.is_first():
        folder.refuse_existing(run)
    if init_from is None:
        return _Start(run)
    folder.refuse_other_sizes(Path(init_from), programs.environment)
    state = folder.load_parameters(Path(init_from), programs.member_shapes)
    policy = {
        name: jax.tree.map(
            lambda x, shape: np.broadcast_to(x, shape.shape),
            getattr(state, name),
            getattr(programs.shapes, name),
        )
        for name in folder.IN_CHECKPOINT
    }
    return _Start(run, policy=policy)


def _resumed(
    stack: contextlib.ExitStack, run: Path | None, task: Task, programs: Programs
) -> _Start:
    """Locks the folder of a run and reads what was saved last, if anything was."""
    if run is None:
        raise UsageError("To resume, name the run folder.")
    if devices.is_first():
        stack.enter_context(folder.lock(run))
    settings, before = task.settings, folder.read_settings(run)
    for name, was in dataclasses.asdict(before).items():
        if name != "num_timesteps" and was != getattr(settings, name):
            raise UsageError(
                f"{name} is {was} in {run} and can't change in the middle of a run: leave it out, "
                f"or start a new run from its policy with --init-from {files.quoted(run)}."
            )
    folder.refuse_other_sizes(run, programs.environment)
    saved = folder.load_resume(run, folder.Saved(programs.shapes, programs.no_totals, np.zeros(())))
    to_say = folder.changes_since(run, programs.environment, programs.ppo, programs.num_devices)
    if saved is None:
        to_say.append("This run was stopped before anything was saved; it starts again.")
        return _Start(run, resumes=True, to_say=to_say)
    done = int(np.max(saved.state.updates))
    steps = done * settings.steps_per_update
    # A run may have been stopped after its last update and before its last evaluation.
    if steps >= _steps(settings) and any(x["steps"] == steps for x in folder.read_metrics(run)):
        raise UsageError(f"{run} has {steps:,} steps already; ask for more with --num-timesteps.")
    state = _keep_learning_rate(saved.state, settings)
    if state is not saved.state:
        to_say.append(
            f"The learning rate goes on from {number(np.max(state.learning_rate))}, where the "
            f"schedule had brought it, and falls to 0 at the new end; --init-from "
            f"{files.quoted(run)} starts a new run at the full rate of {settings.learning_rate}."
        )
    return _Start(run, True, done, saved.replace(state=state), to_say=to_say)


def _keep_learning_rate(state: TrainingState, settings: PPOConfig) -> TrainingState:
    """Keeps the learning rate from jumping where a run goes on to another `num_timesteps`.

    The schedule `linear` depends on the length of a run. The full rate becomes the one from which
    the schedule of the new length leads to the rate of the last update. Where the rate had not
    begun to fall, and would not have at the new length, the same state is returned: the longer run
    equals an uninterrupted one.
    """
    done = int(np.max(state.updates))
    if settings.learning_rate_schedule != "linear" or not 0 < done < settings.num_updates:
        return state
    share = float(linear_schedule(done - 1, settings.num_updates))
    factors = state.hyperparameters
    if np.allclose(factors.learning_rate * share, state.learning_rate, rtol=1e-5, atol=0):
        return state
    full = np.float32(state.learning_rate / share)
    return state.replace(hyperparameters=factors.replace(learning_rate=full))


def _compiled(programs: Programs, start: _Start, display: Display) -> TrainingState:
    """Compiles the programs, and puts the state to start from on the devices."""
    for text in start.to_say:
        display.say(text)
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        display.say("JAX_DISABLE_JIT is set: nothing is compiled, so training is slow.")
    else:
        with display.compiling():
            programs.compile()
    state = programs.init() if start.saved is None else start.saved.state
    state = programs.to_devices(state.replace(**start.policy))
    if start.policy:
        # A run that starts from another one and stops early would start again from its seed.
        start.saved = folder.Saved(programs.to_host(state), programs.no_totals, np.zeros(()))
    return state


def _opened(
    stack: contextlib.ExitStack,
    start: _Start,
    name: str,
    task: Task,
    programs: Programs,
    options: Options,
    display: Display,
) -> tuple[Path, Reporter]:
    """Makes the folder of a new run, or brings that of a resumed one up to date."""
    run, settings = start.run, task.settings
    if not devices.is_first():
        return run or Path(), Reporter()
    if run is None or not start.resumes:
        run = folder.make_folder(run)
        stack.enter_context(folder.lock(run))
    if options.profile:
        files.folder(run, *PROFILE)
    try:
        reporter = reporters(run, settings, options.tensorboard, options.wandb, display.say)
    except UsageError:
        if not start.resumes:
            shutil.rmtree(run)  # just made
        raise
    stack.callback(reporter.close)
    if start.saved is not None:
        # `replay` needs the learning rate that training goes on with.
        folder.save_resume(run, start.saved)
    if start.resumes:
        folder.forget_after(run, start.done * settings.steps_per_update)
    folder.write_config(run, name, task, programs.ppo, programs.num_devices)
    return run, reporter


def _introduce(
    run: Path, settings: PPOConfig, programs: Programs, display: Display, resume: bool
) -> None:
    seeds = f" for each of {settings.num_seeds} seeds" if settings.num_seeds > 1 else ""
    display.say(
        f"Training for {_steps(settings):,} steps{seeds} ({settings.num_timesteps:,} asked for), "
        f"which is {settings.num_updates:,} updates of {settings.steps_per_update:,}, into {run}"
    )
    if not resume:
        display.advise(few_updates(settings, programs.num_devices))


# ---- after the last update ----------------------------------------------------------------------


def _draw(run: Path, display: Display) -> None:
    """Draws the learning curve; what goes wrong there must not hide why a run ended."""
    try:
        if len({row["steps"] for row in folder.read_metrics(run)}) > 1:
            curve.draw(run)
    except (OSError, UsageError) as error:
        display.say(f"No learning curve: {error}")


def _send_video(run: Path, task: Task, reporter: Reporter, display: Display) -> None:
    """Draws episodes of the best checkpoint for the places that a run reports to."""
    steps, seed = folder.best(run)
    try:
        policy = folder.load_policy(run, task, steps=steps, seed=seed)
        gif.write_gif(run / "best.gif", task, policy)
        reporter.video(run / "best.gif", steps)
    except (OSError, UsageError) as error:
        display.say(f"No video: {error}.")
