"""The command line: check | train | tune | play | diagnose | replay | export | bench.

Exit codes: 0 done, 1 the answer is no (a broken rule, an unfinished check, diverged training),
2 unusable arguments, 130, 143 and 129 stopped by SIGINT (Ctrl-C), SIGTERM and SIGHUP. A user's
mistake gets one sentence and no traceback, but for the lines of their own that raised.

JAX is imported by functions, after flags.py has read the arguments.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import (
    OutOfMemoryError,
    TrainingDivergedError,
    TrainingStopped,
    UsageError,
    failure,
    is_out_of_memory,
)
from .flags import Bench, Check, Diagnose, Export, Play, Replay, Train, Tune, parse
from .run import commands, files
from .run.signals import leave, leaving_on_signals

if TYPE_CHECKING:
    from .check import Report
    from .ppo.task import Task


def main(program: str, config: str | ModuleType, args: Sequence[str] | None = None) -> None:
    """Runs a command.

    Args:
      program: the name to show in messages.
      config: the module that defines the tasks, or its name.
      args: the command line; that of the process if None.
    """
    job: Job | None = None
    with leaving_on_signals():
        try:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(AttributeError):  # replaced by something simpler
                    stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
            asked = parse(program, sys.argv[1:] if args is None else args)
            job = _start(program, config, asked)
            COMMANDS[type(asked)](job, asked)
        except UsageError as error:
            _fail(2, str(error))
        except (TrainingDivergedError, OutOfMemoryError) as error:
            _fail(1, str(error))
        except files.FileError as error:
            _fail(1, f"{error.filename} can't be used: {files.reason(error)}.")
        except BrokenPipeError:  # as in `train --help | head`
            leave(1)
        except TrainingStopped as stopped:
            leave(128 + stopped.signal)
        except Exception as error:
            _blame(error, job)
            raise


# ---- what a command needs -----------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a command works on."""

    again: str  # starts this program once more
    config: str | None  # the file of config.py
    tasks: dict[str, "Task"]
    name: str  # of the task that the command is about
    task: "Task"  # with the settings of the run, if the command is about one


def _start(program: str, config: str | ModuleType, asked: Any) -> Job:
    """Imports JAX and config.py, and chooses the task."""
    from . import register, tasks_in  # through the door, which keeps Brax quiet

    _configure_jax(asked)
    if isinstance(asked, Check) and ":" in (asked.task or ""):
        from .check.foreign import maker_of
        from .ppo.task import Task

        name = str(asked.task)
        task = Task.without_networks(maker_of(name))
        return Job(commands.again(program), None, {name: task}, name, task)
    if isinstance(config, str):
        package = config.rpartition(".")[0]
        if package:
            register(package)
        config = importlib.import_module(config)
    tasks = tasks_in(config)
    run = getattr(asked, "run", None) or getattr(asked, "resume", None)
    name, task = _choose(tasks, getattr(asked, "task", None), run)
    file = getattr(config, "__file__", None)
    return Job(commands.again(program), file, tasks, name, task)


def _configure_jax(asked: Any) -> None:
    import jax

    from .run.cache import use_compilation_cache

    use_compilation_cache()
    # Brax and this kit rely on the defaults, which the environment variables of JAX may change.
    jax.config.update("jax_default_prng_impl", "threefry2x32")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    without_jit = jax.config.jax_disable_jit  # type: ignore[attr-defined]
    if without_jit and not isinstance(asked, Train | Play):
        jax.config.update("jax_disable_jit", False)
        print("JAX_DISABLE_JIT is ignored; train and play follow it.", file=sys.stderr)
    if not isinstance(asked, Train | Tune | Replay):  # which look for devices later
        _refuse_no_device()


def _refuse_no_device() -> None:
    import jax

    try:
        jax.devices()
    except (AssertionError, RuntimeError):
        raise UsageError(
            f"JAX finds no device of JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}: unset it, "
            "or install what the device needs (for NVIDIA, the extra cuda13 or cuda12)."
        ) from None


def _choose(tasks: dict[str, "Task"], name: str | None, run: Path | None) -> tuple[str, "Task"]:
    """The task called `name`, the first one if None; that of a run has the settings of the run."""
    from .ppo.task import choose
    from .run import folder

    if run is None:
        return choose(tasks, name)
    trained, task = folder.task_of(run, tasks)
    if name not in (None, trained):
        raise UsageError(f"{run} was trained on the task {trained}: leave {name} out.")
    return trained, task


def _blame(error: Exception, job: Job | None) -> None:
    """Ends the process if the user's code raised `error`, or if `check` finds what is wrong."""
    import jax

    from .check import examine
    from .check.advice import fix_of

    if isinstance(error, jax.errors.JaxRuntimeError) and is_out_of_memory(error):
        _fail(1, "The device has too little memory: ask for fewer --episodes, or use another one.")
    if os.environ.get("JAX_TRACEBACK_FILTERING") == "off":
        return
    fail = failure(error, None)
    first = ""
    if job:  # else config.py can't be imported
        first = f"First run {job.again} check {job.name}, which says how to fix an environment."
    if fail.frames:
        fix = fix_of(fail)
        lines = [f"{fail}." if fix.startswith("correct ") else f"{fail}. Fix: {fix}"]
        if first:
            own = "".join(traceback.format_list(fail.frames)).splitlines()
            lines += [first, "These lines of yours raised it:", *own]
            lines += ["JAX_TRACEBACK_FILTERING=off shows the whole traceback."]
        _fail(2, *lines)
    if job:
        found = examine(dataclasses.replace(job.task, ignore_rules=()))
        if found.violations and not found.ok:
            what = f"{fail.message}. The environment is at fault: {found.violations[0]}"
            _fail(2, what, first)


def _fail(code: int, *lines: str) -> NoReturn:
    print(*map(files.printable, lines), sep="\n", file=sys.stderr)
    if "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
        leave(code)  # an ordinary exit would wait for the other processes
    sys.exit(code)


# ---- the commands -------------------------------------------------------------------------------


def _check(job: Job, asked: Check) -> None:
    from rich.console import Console

    from .check import examine, format_report

    tasks = job.tasks if asked.task is None else {job.name: job.task}
    # Tasks that differ in training alone have one report.
    of: dict[str, Report] = {}
    for name, task in tasks.items():
        alike = [
            of[other] for other in of if _what_is_checked(tasks[other]) == _what_is_checked(task)
        ]
        of[name] = (
            alike[0] if alike else examine(task, seed=asked.seed, time_limit=asked.time_limit)
        )
    ok = all(report.ok for report in of.values())
    if asked.json:
        told = {"ok": ok, "tasks": {name: report.to_dict() for name, report in of.items()}}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        for report in {id(report): report for report in of.values()}.values():
            if len(of) > 1:
                print(f"{', '.join(name for name in of if of[name] is report)}:")
            Console().print(format_report(report, asked.all))
    if any(report.stopped for report in of.values()):
        leave(1)
    sys.exit(not ok)


def _what_is_checked(task: "Task") -> list[Any]:
    settings = ("episode_length", "action_repeat", "normalize_observations")
    return [
        *(task.environment, task.network_factory, task.ignore_rules),
        *(getattr(task.settings, name) for name in settings),
    ]


def _train(job: Job, asked: Train) -> None:
    from .run import devices
    from .run.train import train

    processes = (asked.coordinator, asked.num_processes, asked.process_id)
    settings = dataclasses.replace(job.task.settings, **asked.settings)
    if any(x is not None for x in processes) and None in processes:
        raise UsageError("--coordinator, --num-processes and --process-id go together.")
    if asked.resume and (asked.run_dir or asked.init_from):
        raise UsageError(
            "--resume continues in its own folder: leave --run-dir and --init-from out."
        )
    if asked.distributed or asked.coordinator is not None:
        devices.join(*processes, asked.join_timeout)
    elif asked.options.num_devices is None:
        devices.use_cores(settings.num_seeds)
    _refuse_no_device()
    run = train(
        dataclasses.replace(job.task, settings=settings),
        name=job.name,
        run_dir=asked.resume or asked.run_dir,
        resume=asked.resume is not None,
        init_from=asked.init_from,
        options=asked.options,
        program=f"{job.again} ",
    )
    if devices.is_first():
        print(f"Done. See what it learned: {job.again} play {files.quoted(run)}")


def _tune(job: Job, asked: Tune) -> None:
    from .run import devices
    from .tools.tune import config_file, search

    devices.use_cores(search.MEMBERS)
    _refuse_no_device()
    name, settings = job.name, job.task.settings
    found = search.tune(
        job.task, name=name, minutes=asked.minutes, threshold=asked.threshold, folder=asked.folder
    )
    changed = {k: v for k, v in found.settings.items() if getattr(settings, k) != v}
    if not changed:
        print("The settings of config.py are the best ones that are known.")
    elif asked.write and job.config and config_file.write(Path(job.config), name, changed):
        print(f"Written into config.py. To train: {job.again} train {name}")
    else:
        if asked.write:
            print(f"Not written, because config.py does not say {name} = Task(... PPOConfig(...)).")
        print(f"For PPOConfig(...) of {name} in config.py:\n")
        print("".join(f"        {key}={value!r},\n" for key, value in changed.items()))
    sys.exit(asked.threshold is not None and not found.solves(asked.threshold))


def _play(job: Job, asked: Play) -> None:
    from .tools.play import play

    play(**vars(asked), task=job.task)


def _diagnose(job: Job, asked: Diagnose) -> None:
    from rich.console import Console

    from .run import folder
    from .tools.diagnose import findings
    from .tools.diagnose.diagnose import diagnose

    policies = []
    if asked.run is not None:
        policies = [folder.load_policy(asked.run, job.task, deterministic=x) for x in (True, False)]
    seen = diagnose(
        job.task,
        *policies,
        episodes=asked.episodes,
        seed=asked.seed,
        minutes=asked.minutes,
    )
    print(f"{asked.episodes} episodes each, from the same starts:")
    Console().print(findings.table(seen))
    for text in findings.findings(seen).values() or [findings.verdict(seen)]:
        print(files.printable(text))


def _replay(job: Job, asked: Replay) -> None:
    from .run import devices, folder
    from .tools.replay import replay

    if folder.read_config(asked.run)["num_devices"] > 1:
        devices.use_cores(job.task.settings.num_seeds)
    _refuse_no_device()

    def say(text: str) -> None:
        print("\n".join(map(files.printable, text.splitlines())))

    sys.exit(replay(asked.run, job.task, max_frames=asked.max_frames, say=say) is None)


def _export(job: Job, asked: Export) -> None:
    from .tools.export import export

    written = export(asked.run, job.task, steps=asked.steps, seed=asked.seed, onnx=asked.onnx)
    for path, how_to_load in written.items():
        print(f"{files.printable(path)} is written. To act on a batch of observations:\n")
        print(textwrap.indent(how_to_load, "    "))


def _bench(job: Job, asked: Bench) -> None:
    from .tools.bench import bench

    bench(job.task)


COMMANDS: dict[type, Callable[[Job, Any], None]] = {
    Check: _check,
    Train: _train,
    Tune: _tune,
    Play: _play,
    Diagnose: _diagnose,
    Replay: _replay,
    Export: _export,
    Bench: _bench,
}
