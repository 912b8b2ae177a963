"""The command line: check | train | tune | play | diagnose | replay | export | bench.

Exit codes: 0 done, 1 the answer is no (a broken rule, an unfinished check, diverged training),
2 unusable arguments, 130, 143 and 129 stopped by SIGINT (Ctrl-C), SIGTERM and SIGHUP. A user's
mistake gets one sentence and no traceback, but for the lines of their own that raised.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NoReturn

import jax
import tyro
from rich.console import Console
from rich.table import Table

from . import check as checker
from .bounds import FINITE, FRAMES, MANY, MINUTES, SECONDS, SEED, STEPS, check_all
from .check.advice import fix_of
from .env import episodes
from .env.actions import action_space_of
from .errors import OutOfMemoryError, TrainingDivergedError, TrainingStopped, UsageError, failure
from .ppo.settings import PPOConfig
from .ppo.task import Task, choose, tasks_in
from .run import commands, devices, files, fingerprint, folder, gif
from .run import train as training
from .run.cache import use_compilation_cache
from .run.display import number
from .run.signals import leave, leaving_on_signals
from .tools import bench, play
from .tools import export as exporting
from .tools import replay as replaying
from .tools.diagnose import diagnose as diagnosing
from .tools.diagnose import findings
from .tools.tune import config_file
from .tools.tune import search as tuning

TaskName = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[TASK]")]
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Settings = Annotated[PPOConfig, tyro.conf.arg(name="")]


@dataclass
class Check:
    """Check that the environment keeps the rules of Brax, and say how to fix what breaks them."""

    task: TaskName = None
    """Which task of config.py; all by default."""
    json: bool = False
    """Print JSON: "ok", and a report for each task by its name."""
    all: bool = False
    """Print every rule, and not only what is wrong."""
    seed: Annotated[int, SEED] = 0
    """Seed of all keys and actions."""
    time_limit: Annotated[float, SECONDS] = 60.0
    """Seconds of tracing and running, not compiling, after which the check stops unfinished."""


@dataclass
class Train:
    """Train a policy with PPO: train [TASK] [OPTIONS]."""

    settings: Settings
    options: Annotated[training.Options, tyro.conf.arg(name="")]
    task: TaskName = None
    """Which task of config.py; the first one by default."""
    run_dir: Path | None = None
    """The folder to make; runs/<date and time> by default."""
    resume: Path | None = None
    """A run folder to continue; its settings stay, but --num-timesteps may be larger: where the
    learning rate has begun to fall, it then goes on from where it is and falls to 0 at the end."""
    init_from: Path | None = None
    """A run folder whose policy a new run starts from, at the full learning rate."""
    distributed: bool = False
    """Train on several machines; SLURM, Open MPI or Kubernetes tell the processes of each other."""
    coordinator: str | None = None
    """Address of process 0, HOST:PORT; needed without SLURM, Open MPI or Kubernetes."""
    num_processes: int | None = None
    """How many processes train together; goes with --coordinator."""
    process_id: int | None = None
    """Which of them this is, from 0; goes with --coordinator."""
    join_timeout: Annotated[float, SECONDS] = 300.0
    """Seconds to wait for the other processes."""


@dataclass
class Tune:
    """Search for settings of PPO that solve the task, many at once; needs the extra `tune`.

    Results are kept in a folder, and a second call continues the search.
    """

    task: TaskName = None
    """Which task of config.py; the first one by default."""
    minutes: Annotated[float, MINUTES] = 10.0
    """How long to search, compiling included; 0 shows what was found before."""
    threshold: Annotated[float | None, FINITE] = None
    """The return that solves the task; settings that reach it on 256 seeds end the search."""
    write: bool = False
    """Write what was found into config.py."""
    folder: Path | None = None
    """Where to keep the search; tune/<task> by default."""
    config: tyro.conf.Suppress[str | None] = None


@dataclass
class Play:
    """Evaluate a trained policy beside a random one, and draw some of its episodes.

    Domain randomisation is not used.
    """

    run: Run
    """A run folder."""
    steps: Annotated[int | None, STEPS] = None
    """Which checkpoint, by its number of steps; the newest by default."""
    episodes: Annotated[int, MANY] = 128
    """Episodes to evaluate."""
    max_frames: Annotated[int, FRAMES] = 200
    """Frames of each drawn episode."""
    seed: Annotated[int | None, SEED] = None
    """Which seed of the run; the best one by default."""
    episode_seed: Annotated[int, SEED] = 0
    """Seed of the episodes."""


@dataclass
class Diagnose:
    """Say whether the task or its training is at fault.

    Random actions, constant actions and a planner show what can be reached without learning, beside
    the policy of a run. Domain randomisation is not used.
    """

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = None
    """A run folder; without one the task alone is judged."""
    task: str | None = None
    """Which task of config.py; that of the run, or the first one, by default."""
    episodes: int = 16
    """Episodes, from the same starts for all."""
    minutes: float = 1.0
    """Minutes after which the planner stops; where `step` is slow, give it more."""
    seed: int = 0
    """Seed of the episodes."""


@dataclass
class Replay:
    """Find where a NaN or an infinity came from that stopped a run.

    The run's last updates are done again, and the states around the origin are saved.
    """

    run: Run
    """A run folder."""
    max_frames: Annotated[int, FRAMES] = 100
    """How many of the states up to it to draw."""


@dataclass
class Export:
    """Write the deterministic policy as StableHLO, to be used without Brax."""

    run: Run
    """A run folder."""
    steps: Annotated[int | None, STEPS] = None
    """Which checkpoint, by its number of steps; the newest by default."""
    seed: Annotated[int | None, SEED] = None
    """Which seed of the run; the best one by default."""
    onnx: bool = False
    """Write ONNX too; needs the extra `onnx`."""


@dataclass
class Bench:
    """Measure the environment's steps per second with random actions, wrapped as for training.

    The number of environments grows until more are not faster.
    """

    task: TaskName = None
    """Which task of config.py; the first one by default."""


def main(program: str, config: str | ModuleType, args: Sequence[str] | None = None) -> None:
    """Runs a command.

    Args:
      program: the name to show in messages.
      config: the module that defines the tasks, or its name.
      args: the command line; that of the process if None.
    """
    args = sys.argv[1:] if args is None else args
    with leaving_on_signals():
        _run(program, config, args)


def _run(program: str, config: str | ModuleType, args: Sequence[str]) -> None:
    command = tasks = None
    try:
        _configure()
        command_name = next(iter(args), "")
        without_jit = jax.config.jax_disable_jit  # type: ignore[attr-defined]
        if without_jit and command_name not in ("train", "play"):
            jax.config.update("jax_disable_jit", False)
            print("JAX_DISABLE_JIT is ignored; train and play follow it.", file=sys.stderr)
        if command_name not in ("train", "tune", "replay"):  # which look for devices later
            _refuse_no_device()
        # Imported here, because a task with unusable settings is a mistake like any other.
        module = importlib.import_module(config) if isinstance(config, str) else config
        tasks = tasks_in(module)
        command = _parse(program, tasks, args)
        check_all(command)
        if isinstance(command, Tune):
            command.config = module.__file__
        COMMANDS[command_name][1](commands.again(program), tasks, command)
    except UsageError as error:
        _fail(2, str(error))
    except (TrainingDivergedError, OutOfMemoryError) as error:
        _fail(1, str(error))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
            raise
        _fail(1, "The device has too little memory: ask for fewer --episodes, or use another one.")
    except files.FileError as error:
        _fail(1, f"{error.filename} can't be used: {files.reason(error)}.")
    except BrokenPipeError:  # as in `train --help | head`
        leave(1)
    except TrainingStopped as stopped:
        leave(128 + stopped.signal)
    except Exception as error:
        if os.environ.get("JAX_TRACEBACK_FILTERING") == "off":
            raise
        _blame(error, commands.again(program), tasks or {}, command)
        raise


def _blame(error: Exception, program: str, tasks: Mapping[str, Task], command: Any) -> None:
    """Ends the process if the user's code raised `error`, or if `check` finds what is wrong."""
    fail, name = failure(error, None), _task_of(command, tasks)
    see = f"{program} check {name}, which says how to fix an environment" if name else ""
    if fail.frames:
        fix = fix_of(fail)
        lines = [f"{fail}." + f" Fix: {fix}" * (not fix.startswith("correct "))]
        if name:  # else config.py can't be imported
            lines += [f"First run {see}. These lines of yours raised it:"]
            lines += "".join(traceback.format_list(fail.frames)).splitlines()
            lines += ["JAX_TRACEBACK_FILTERING=off shows the whole traceback."]
        _fail(2, *lines)
    if name:
        found = checker.examine(dataclasses.replace(tasks[name], ignore_rules=()))
        if found.violations and not found.ok:
            what = f"{fail.message}. The environment is at fault: {found.violations[0]}"
            _fail(2, what, f"First run {see}.")


def _task_of(command: Any, tasks: Mapping[str, Task]) -> str | None:
    """The task that a command is about, if that can be told."""
    name = getattr(command, "task", None)
    with contextlib.suppress(Exception):
        run = getattr(command, "resume", None) or getattr(command, "run", None)
        name = folder.read_config(run)["task"] if run else name
    return name if name in tasks else next(iter(tasks), None)


def _fail(code: int, *lines: str) -> NoReturn:
    print(*map(files.printable, lines), sep="\n", file=sys.stderr)
    if jax.distributed.is_initialized():
        leave(code)  # an ordinary exit would wait for the other processes
    sys.exit(code)


def _configure() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # replaced by something simpler
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    use_compilation_cache()
    # Brax and this kit rely on the defaults, which the environment variables of JAX may change.
    jax.config.update("jax_default_prng_impl", "threefry2x32")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    jax.config.update("jax_numpy_dtype_promotion", "standard")


def _refuse_no_device() -> None:
    try:
        jax.devices()
    except (AssertionError, RuntimeError):
        raise UsageError(
            f"JAX finds no device of JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}: unset it, "
            "or install what the device needs (for NVIDIA, the extra cuda13 or cuda12)."
        ) from None


def _parse(program: str, tasks: Mapping[str, Task], args: Sequence[str]) -> Any:
    """Reads the command line; tyro prints its own messages and exits with 2."""
    defaults = {
        "check": Check(),
        "train": Train(_default_settings(tasks, args), training.Options()),
        "tune": Tune(),
        "play": Play(tyro.MISSING),
        "diagnose": Diagnose(),
        "replay": Replay(tyro.MISSING),
        "export": Export(tyro.MISSING),
        "bench": Bench(),
    }
    texts = {name: kind.__doc__ or "" for name, (kind, _) in COMMANDS.items()}
    commands = tyro.extras.subcommand_type_from_defaults(defaults, descriptions=texts)
    command = tyro.cli(
        commands, prog=files.printable(program), args=args, config=(tyro.conf.OmitArgPrefixes,)
    )
    if isinstance(command, Train) and command.task and [command.task] != list(args[1:2]):
        choose(tasks, command.task)
        raise UsageError(f"Name the task before the flags: train {command.task} ...")
    return command


def _default_settings(tasks: Mapping[str, Task], args: Sequence[str]) -> PPOConfig:
    """What the flags of `train` start from: the run to resume, else the task, named first."""
    if list(args[:1]) != ["train"]:
        return choose(tasks, None)[1].settings
    for flag, value in zip(args, [*args[1:], ""], strict=True):
        name, _, given = flag.partition("=")
        if name == "--resume" and (given or value):
            return folder.read_settings(Path(given or value))
    named = next((arg for arg in args[1:2] if not arg.startswith("-")), None)
    return choose(tasks, named)[1].settings


def _check(program: str, tasks: Mapping[str, Task], asked: Check) -> None:
    if asked.task is not None:
        tasks = dict([choose(tasks, asked.task)])
    # Tasks that differ in training alone have one report.
    of: dict[str, checker.Report] = {}
    for name, task in tasks.items():
        alike = [of[other] for other in of if _are_checked_alike(tasks[other], task)]
        of[name] = (
            alike[0]
            if alike
            else checker.examine(task, seed=asked.seed, time_limit=asked.time_limit)
        )
    ok = all(report.ok for report in of.values())
    if asked.json:
        told = {"ok": ok, "tasks": {name: report.to_dict() for name, report in of.items()}}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        for report in {id(report): report for report in of.values()}.values():
            named = [name for name in of if of[name] is report]
            if len(of) > 1:
                print(f"{', '.join(named)}:")
            Console().print(checker.format_report(report, asked.all))
    if any(report.stopped for report in of.values()):
        leave(1)
    sys.exit(not ok)


def _are_checked_alike(one: Task, other: Task) -> bool:
    same = ("episode_length", "action_repeat", "normalize_observations")
    return (
        one.environment is other.environment
        and one.network_factory == other.network_factory
        and one.ignore_rules == other.ignore_rules
        and all(getattr(one.settings, name) == getattr(other.settings, name) for name in same)
    )


def _train(program: str, tasks: Mapping[str, Task], asked: Train) -> None:
    alone = (asked.coordinator, asked.num_processes, asked.process_id) == (None, None, None)
    if not alone and None in (asked.coordinator, asked.num_processes, asked.process_id):
        raise UsageError("--coordinator, --num-processes and --process-id go together.")
    if asked.distributed or not alone:
        devices.join(asked.coordinator, asked.num_processes, asked.process_id, asked.join_timeout)
    elif asked.options.num_devices is None:
        devices.use_cores(asked.settings.num_seeds)
    _refuse_no_device()
    name, settings = asked.task, asked.settings
    if asked.resume is not None:
        if asked.run_dir or asked.init_from:
            raise UsageError(
                "--resume continues in its own folder: leave --run-dir and --init-from out."
            )
        saved = folder.read_config(asked.resume)
        if name not in (None, saved["task"]):
            raise UsageError(
                f"{asked.resume} was trained on the task {saved['task']}: leave {name} out."
            )
        name = saved["task"]
    name, task = choose(tasks, name)
    run = training.train(
        dataclasses.replace(task, settings=settings),
        name=name,
        run_dir=asked.resume or asked.run_dir,
        resume=asked.resume is not None,
        init_from=asked.init_from,
        options=asked.options,
        program=f"{program} ",
    )
    if devices.is_first():
        print(f"Done. See what it learned: {program} play {files.quoted(run)}")


def _tune(program: str, tasks: Mapping[str, Task], asked: Tune) -> None:
    devices.use_cores(tuning.MEMBERS)
    _refuse_no_device()
    name, task = choose(tasks, asked.task)
    found = tuning.tune(
        task, name=name, minutes=asked.minutes, threshold=asked.threshold, folder=asked.folder
    )
    changed = {k: v for k, v in found.settings.items() if getattr(task.settings, k) != v}
    if not changed:
        print("The settings of config.py are the best ones that are known.")
    elif asked.write and asked.config and config_file.write(Path(asked.config), name, changed):
        print(f"Written into config.py. To train: {program} train {name}")
    else:
        if asked.write:
            print(f"Not written, because config.py does not say {name} = Task(... PPOConfig(...)).")
        print(f"For PPOConfig(...) of {name} in config.py:\n")
        print("".join(f"        {key}={value!r},\n" for key, value in changed.items()))
    sys.exit(asked.threshold is not None and not found.solves(asked.threshold))


def _play(program: str, tasks: Mapping[str, Task], asked: Play) -> None:
    saved = folder.read_config(asked.run)
    settings = PPOConfig(**saved["settings"])
    _, task = choose(tasks, saved["task"])
    steps, seed = asked.steps, asked.seed
    if seed is None and settings.num_seeds > 1:
        newest = max(folder.checkpoints(asked.run), default=None)
        steps, seed = folder.best(asked.run, newest if steps is None else steps)
        print(f"Seed {seed}, the best one after {steps:,} steps; see --seed.")
    trained = folder.load_policy(asked.run, task, steps=steps, seed=seed)
    task = dataclasses.replace(task, settings=settings)
    table = Table("policy", "return", "± std", "length", "± std")
    for name, policy in (
        ("trained", trained),
        ("random", episodes.random_policy(action_space_of(task.environment()))),
    ):
        result = play.evaluate(task, policy, num_episodes=asked.episodes, seed=asked.episode_seed)
        table.add_row(
            name,
            *(
                number(x)
                for values in (result.returns, result.lengths)
                for x in (values.mean(), values.std())
            ),
        )
    print(f"{asked.episodes} episodes each:")
    Console().print(table)
    path = asked.run / "play.gif"
    try:
        cut = gif.write_gif(
            path, task, trained, max_frames=asked.max_frames, seed=asked.episode_seed
        )
    except UsageError as error:
        print(f"No GIF: {error}.")
        return
    note = f"; {cut} of them cut after {asked.max_frames} frames, see --max-frames" * bool(cut)
    print(f"Three episodes are drawn in {files.printable(path)}{note}.")


def _diagnose(program: str, tasks: Mapping[str, Task], asked: Diagnose) -> None:
    few, most = diagnosing.EPISODES
    if (
        not few <= asked.episodes <= most
        or not 0 < asked.minutes < float("inf")
        or not 0 <= asked.seed < 2**32
    ):
        raise UsageError(
            f"--episodes has to be from {few} to {most}, --minutes greater than 0, "
            "--seed from 0 to 4294967295."
        )
    name, policies = asked.task, []
    if asked.run is not None:
        saved = folder.read_config(asked.run)
        if name not in (None, saved["task"]):
            raise UsageError(
                f"{asked.run} was trained on the task {saved['task']}: leave --task out."
            )
        name = saved["task"]
    _, task = choose(tasks, name)
    if asked.run is not None:
        policies = [folder.load_policy(asked.run, task, deterministic=x) for x in (True, False)]
        task = dataclasses.replace(task, settings=PPOConfig(**saved["settings"]))
    seen = diagnosing.diagnose(
        task, *policies, episodes=asked.episodes, seed=asked.seed, minutes=asked.minutes
    )
    print(f"{asked.episodes} episodes each, from the same starts:")
    Console().print(findings.table(seen))
    for text in findings.findings(seen).values() or [findings.verdict(seen)]:
        print(files.printable(text))


def _replay(program: str, tasks: Mapping[str, Task], asked: Replay) -> None:
    saved = folder.read_config(asked.run)
    if saved["num_devices"] > 1:
        devices.use_cores(saved["settings"]["num_seeds"])
    _refuse_no_device()

    def say(text: str) -> None:
        print("\n".join(map(files.printable, text.splitlines())))

    found = replaying.replay(asked.run, tasks, max_frames=asked.max_frames, say=say)
    sys.exit(found is None)


def _export(program: str, tasks: Mapping[str, Task], asked: Export) -> None:
    written = exporting.export(
        asked.run, tasks, steps=asked.steps, seed=asked.seed, onnx=asked.onnx
    )
    for path, how_to_load in written.items():
        print(f"{files.printable(path)} is written. To act on a batch of observations:\n")
        print(textwrap.indent(how_to_load, "    "))


def _bench(program: str, tasks: Mapping[str, Task], asked: Bench) -> None:
    _, task = choose(tasks, asked.task)
    obs = fingerprint.reset_shapes(task.environment()).obs
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(obs))
    best, num_envs = 0.0, 1
    while num_envs * size <= 500e6:
        speed = bench.measure_speed(task, num_envs)
        print(f"{num_envs:>9,} environments   {speed:>15,.0f} steps/s", flush=True)
        if speed < 1.1 * best:
            return
        best, num_envs = speed, 8 * num_envs
    print(f"{num_envs:>9,} environments   left out: over 500 MB of observations")


COMMANDS: dict[str, tuple[type, Callable[[str, Mapping[str, Task], Any], None]]] = {
    "check": (Check, _check),
    "train": (Train, _train),
    "tune": (Tune, _tune),
    "play": (Play, _play),
    "diagnose": (Diagnose, _diagnose),
    "replay": (Replay, _replay),
    "export": (Export, _export),
    "bench": (Bench, _bench),
}
