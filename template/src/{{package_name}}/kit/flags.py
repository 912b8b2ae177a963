"""What can be typed: a dataclass for each command, its flags, and what a flag may be.

Nothing here imports JAX: `--help` and a refused argument are answered without it.
"""

import ast
import dataclasses
import inspect
import itertools
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import tyro

from .bounds import (
    EPISODES,
    FINITE,
    FRAMES,
    MANY,
    MINUTES,
    POSITIVE,
    SECONDS,
    SEED,
    STEPS,
    as_flag,
    check_all,
)
from .ppo.settings import PPOConfig
from .run.files import printable
from .run.options import Options


def _without_default(metavar: str | None = None) -> Any:
    """For a flag whose help says what happens without it."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


OPTIONAL = _without_default()
TaskName = Annotated[str | None, tyro.conf.Positional, _without_default("[TASK]")]
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass
class OfTask:
    task: TaskName = None
    """Which task of config.py; the first one by default."""


@dataclass
class OfRun:
    run: Run
    """A run folder."""


@dataclass
class OfCheckpoint(OfRun):
    steps: Annotated[int | None, STEPS, OPTIONAL] = None
    """Which checkpoint, by its number of steps; the newest by default."""
    seed: Annotated[int | None, SEED, OPTIONAL] = None
    """Which seed of the run; the best one by default."""


@dataclass
class Check:
    """Check that the environment keeps the rules of Brax, and say how to fix what breaks them."""

    task: TaskName = None
    """Which task of config.py, all by default; or anyone's environment, as MODULE:NAME."""
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
    """Train a policy with PPO.

    Settings that are not given are those of the task in config.py; the defaults shown here are
    those of PPOConfig.
    """

    task: TaskName = None
    """Which task of config.py; the first one by default."""
    settings: dict[str, Any] = field(default_factory=dict)  # those that are given
    options: Options = field(default_factory=Options)
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
class Tune(OfTask):
    """Search for settings of PPO that solve the task, many at once; needs the extra `tune`.

    Results are kept in a folder, and a second call continues the search.
    """

    minutes: Annotated[float, MINUTES] = 10.0
    """How long to search, compiling included; 0 shows what was found before."""
    threshold: Annotated[float | None, FINITE, OPTIONAL] = None
    """The return that solves the task; settings that reach it on 256 seeds end the search."""
    write: bool = False
    """Write what was found into config.py."""
    folder: Annotated[Path | None, OPTIONAL] = None
    """Where to keep the search; tune/<task> by default."""


@dataclass
class Play(OfCheckpoint):
    """Evaluate a trained policy beside a random one, and draw some of its episodes.

    Domain randomisation is not used.
    """

    episodes: Annotated[int, MANY] = 128
    """Episodes to evaluate."""
    max_frames: Annotated[int, FRAMES] = 200
    """Actions of each drawn episode, with a frame for each."""
    episode_seed: Annotated[int, SEED] = 0
    """Seed of the episodes."""


@dataclass
class Diagnose:
    """Say whether the task or its training is at fault.

    Random actions, constant actions and a planner show what can be reached without learning, beside
    the policy of a run. Domain randomisation is not used.
    """

    run: Annotated[Path | None, tyro.conf.Positional, _without_default("[RUN]")] = None
    """A run folder; without one the task alone is judged."""
    task: Annotated[str | None, OPTIONAL] = None
    """Which task of config.py; that of the run, or the first one, by default."""
    episodes: Annotated[int, EPISODES] = 16
    """Episodes, from the same starts for all."""
    minutes: Annotated[float, POSITIVE] = 1.0
    """Minutes after which the planner stops; where `step` is slow, give it more."""
    seed: Annotated[int, SEED] = 0
    """Seed of the episodes."""


@dataclass
class Replay(OfRun):
    """Find where a NaN or an infinity came from that stopped a run.

    The run's last updates are done again, and the states around the origin are saved.
    """

    max_frames: Annotated[int, FRAMES] = 100
    """How many of the states up to it to draw."""


@dataclass
class Export(OfCheckpoint):
    """Write the deterministic policy as StableHLO, to be used without Brax."""

    onnx: bool = False
    """Write ONNX too; needs the extra `onnx`."""


@dataclass
class Bench(OfTask):
    """Measure the environment's steps per second with random actions, wrapped as for training.

    The number of environments grows until more are not faster.
    """


# ---- from the arguments to a command ------------------------------------------------------------


def parse(program: str, args: Sequence[str]) -> Any:
    """Reads the command line; tyro prints its own messages and exits with 2."""
    flags_of_train = _flags_of_train()
    defaults = {
        "check": Check(),
        "train": flags_of_train(),
        "tune": Tune(),
        "play": Play(tyro.MISSING),
        "diagnose": Diagnose(),
        "replay": Replay(tyro.MISSING),
        "export": Export(tyro.MISSING),
        "bench": Bench(),
    }
    texts = {name: inspect.getdoc(command) or "" for name, command in defaults.items()}
    kinds = tyro.extras.subcommand_type_from_defaults(defaults, descriptions=texts)
    asked: Any = tyro.cli(kinds, prog=printable(program), args=args)
    if type(asked) is flags_of_train:
        asked = _train_of(**vars(asked))
    check_all(type(asked), vars(asked), as_flag)
    return asked


# Which field starts which group of `train --help`. Fields before the first one are no flags.
GROUPS: dict[type, dict[str, str]] = {
    Train: {"run_dir": "run", "distributed": "devices"},
    Options: {"checkpoint_every": "run", "num_devices": "devices"},
    PPOConfig: {
        "episode_length": "run",
        "num_envs": "batches",
        "learning_rate": "loss",
        "normalize_observations": "observations",
        "num_evals": "evaluation",
    },
}


def _flags_of_train() -> type:
    """Makes a dataclass of the flags of `train`: the task, and a dict for each group.

    Flags that are not given are not in the dict.
    """
    order = ("run", "batches", "loss", "observations", "evaluation", "devices")
    groups: dict[str, dict[str, Any]] = {group: {} for group in order}
    for kind, starts in GROUPS.items():
        group = ""
        for name, flag in _flags(kind).items():
            group = starts.get(name, group)
            if group:
                groups[group][name] = flag
    parts: list[tuple[str, Any, Any]] = [("task", _flags(Train)["task"], None)]
    typed_dict: Any = TypedDict  # mypy knows only those that are written out
    for group, flags in groups.items():
        made: Any = typed_dict(group, flags, total=False)
        parts.append((group, Annotated[made, tyro.conf.arg(help="")], field(default_factory=dict)))
    all_flags = dataclasses.make_dataclass("Flags", parts)
    all_flags.__doc__ = Train.__doc__
    return all_flags


def _flags(kind: type) -> dict[str, Any]:
    """The types of the fields of a dataclass, with what tyro shows."""
    tree: Any = ast.parse(inspect.getsource(kind)).body[0]
    texts = {
        ast.unparse(node.target): inspect.cleandoc(ast.literal_eval(below.value))
        for node, below in itertools.pairwise(tree.body)
        if isinstance(node, ast.AnnAssign) and isinstance(below, ast.Expr)
    }
    hints = typing.get_type_hints(kind, include_extras=True)
    flags = {}
    for x in dataclasses.fields(kind):
        is_shown = x.default not in (None, dataclasses.MISSING)
        shown = tyro.conf.arg(
            prefix_name=False,
            help=texts.get(x.name),
            help_behavior_hint=f"(default: {x.default})" if is_shown else "",
        )
        flags[x.name] = Annotated[hints[x.name], shown]
    return flags


def _train_of(task: str | None, **groups: dict[str, Any]) -> Train:
    """The command that the flags ask for."""
    given = {name: value for flags in groups.values() for name, value in flags.items()}
    of = {
        kind: {x.name: given[x.name] for x in dataclasses.fields(kind) if x.name in given}
        for kind in GROUPS
    }
    check_all(PPOConfig, of[PPOConfig], as_flag)
    return Train(task, of[PPOConfig], Options(**of[Options]), **of[Train])
