"""The command line: check | train | play | bench. The template's: not for editing."""

import contextlib
import dataclasses
import functools
import io
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from . import MyEnv, spec
from .config import Config, network_factory
from .kit import check as checker
from .kit import rollout, runs
from .kit import train as training

_PROGRAM = "my-env"


class UsageError(Exception):
    """Arguments that can't be used; the message says what would be right."""


def check(*, json: bool = False, seed: int = 0, time_limit: float = 60.0) -> None:
    """Say which rules of a Brax environment yours breaks, and what mends it.

    Args:
      json: print JSON for machines.
      seed: all keys and actions follow from it.
      time_limit: seconds after which it stops, with what it has found.
    """
    if not 0 <= seed < 2**32 or not 0 < time_limit < float("inf"):
        raise UsageError("--seed has to be from 0 to 4294967295, --time-limit greater than 0.")
    report = checker.examine(
        MyEnv(),
        seed=seed,
        episode_length=spec.EPISODE_LENGTH,
        actions=spec.ACTIONS,
        time_limit=time_limit,
    )
    report = dataclasses.replace(report, violations=[*_unlike_answers(), *report.violations])
    if json:
        print(report.to_json())
    else:
        Console().print(checker.format_report(report))
    sys.exit(0 if report.ok else 1)


def train(
    config: Annotated[Config, tyro.conf.arg(name="")] = Config(),  # noqa: B008
    *,
    run_dir: Path | None = None,
    resume: Path | None = None,
    wandb: str | None = None,
) -> None:
    """Train a policy with PPO.

    Args:
      config: settings of PPO.
      run_dir: the folder to make for the run; runs/<date and time> by default.
      resume: a run folder to go on with, with its own settings but for --num-timesteps.
      wandb: a Weights & Biases project to report to as well (needs the extra `wandb`).
    """
    if resume is not None:
        if run_dir is not None:
            raise UsageError("--resume goes on in its own folder; leave --run-dir out.")
        config = _settings_of(resume, config)
    if problems := config.problems():
        raise UsageError(" ".join(problems))
    run = training.train(
        MyEnv(),
        config,
        network_factory,
        run_dir=resume or run_dir,
        resume=resume is not None,
        report=_wandb_report(wandb, config),
    )
    print(f"Done. See how it does: uv run {_PROGRAM} play {run}")


def play(run: Annotated[Path, tyro.conf.Positional], *, episodes: int = 128, seed: int = 0) -> None:
    """Evaluate a trained policy beside a random one, and draw some of its episodes.

    Args:
      run: the folder of a run.
      episodes: how many to evaluate over.
      seed: where the episodes start follows from it.
    """
    if episodes < 1 or not 0 <= seed < 2**32:
        raise UsageError("--episodes has to be 1 or more, --seed from 0 to 4294967295.")
    environment = MyEnv()
    config = runs.read_config(run)["config"]
    runs.refuse_other_sizes(run, environment)
    trained = runs.load_policy(run)
    table = Table("policy", "return", "± std", "length", "± std")
    for name, policy in (
        ("trained", trained),
        ("random", rollout.random_policy(spec.ACTIONS, environment.action_size)),
    ):
        result = rollout.evaluate(
            environment,
            policy,
            episode_length=config["episode_length"],
            action_repeat=config["action_repeat"],
            num_episodes=episodes,
            seed=seed,
        )
        numbers = (
            result.returns.mean(),
            result.returns.std(),
            result.lengths.mean(),
            result.lengths.std(),
        )
        table.add_row(name, *(f"{number:.2f}" for number in numbers))
    print(f"{episodes} episodes each:")
    Console().print(table)
    if not hasattr(environment, "render"):
        print("No GIF: the environment has no render(state).")
        return
    gif = run / "play.gif"
    rollout.write_gif(gif, environment, trained, episode_length=config["episode_length"], seed=seed)
    print(f"Three episodes are drawn in {gif}")


def bench() -> None:
    """Time the environment: steps per second with random actions, wrapped as for training."""
    environment = MyEnv()
    for num_envs in (1, 8, 64, 512, 1024, 4096, 8192):
        megabytes = num_envs * spec.OBSERVATION_SIZE * 4 / 1e6
        if megabytes > 500:
            print(f"{num_envs:>6,} environments   left out: {megabytes:,.0f} MB of observations")
            continue
        speed = rollout.measure_speed(
            environment,
            spec.ACTIONS,
            num_envs,
            episode_length=spec.EPISODE_LENGTH,
            resets=Config.resets,
        )
        print(f"{num_envs:>6,} environments   {speed:>14,.0f} steps/s", flush=True)


def main() -> None:
    """Runs the command; exit 0 done, 1 the answer is no, 2 unusable arguments."""
    training.use_compilation_cache()
    try:
        _parse({"check": check, "train": train, "play": play, "bench": bench})()
    except (UsageError, runs.RunError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except training.TrainingDivergedError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _parse(commands: Mapping[str, Callable[..., None]]) -> Callable[[], None]:
    """Reads the command line into a call to make. Exits with 2 and one line when it can't."""

    def later(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
        @functools.wraps(command)
        def bind(*args: Any, **kwargs: Any) -> Callable[[], None]:
            return functools.partial(command, *args, **kwargs)

        return bind

    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.extras.subcommand_cli_from_dict(
                {name: later(command) for name, command in commands.items()},
                prog=_PROGRAM,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    finally:
        if box.getvalue():
            print(_sentence(box.getvalue()), file=sys.stderr)


def _sentence(box: str) -> str:
    """One line out of tyro's framed message: what is wrong, what would be right."""
    rows = [row.strip("│ ") for row in box.splitlines() if row[:1] not in "╭╰"]
    sections: list[list[str]] = [[]]
    for row in rows:
        if re.fullmatch("[─-]+", row):
            sections.append([])
        elif row:
            sections[-1].append(row)
    # Where the terminal has no Unicode, the title is a section instead of a border.
    wrong, *rest = sections if box.startswith("╭") else sections[1:]
    sentence = " ".join(wrong).removesuffix(".")
    for title, *details in filter(None, rest):
        if title.startswith("Perhaps you meant"):
            # A line of help may begin with a flag too, and then ends a sentence.
            first = (row.split()[0] for row in details)
            flags = dict.fromkeys(flag for flag in first if re.fullmatch(r"--[\w-]+", flag))
            sentence += f"; perhaps you meant {' or '.join(flags)}"
        elif title.startswith("Available subcommands"):
            sentence += f"; the commands are {title.partition(': ')[2]}"
    return f"{sentence}. More: {_PROGRAM} --help"


def _unlike_answers() -> list[checker.Violation]:
    """Sizes of the environment that are not the answered ones, say after an answer was changed."""
    environment, found = MyEnv(), []
    for name, answered in (
        ("observation_size", spec.OBSERVATION_SIZE),
        ("action_size", spec.ACTION_SIZE),
    ):
        with contextlib.suppress(Exception):  # what the property raises, the rules report
            if (declared := getattr(environment, name)) != answered:
                expected, actual = f"{name} is {answered}, as answered", f"{name} is {declared}"
                fix = f"return spec.{name.upper()}  # and make reset and step fit"
                found.append(checker.Violation("as-answered", "error", expected, actual, fix))
    return found


def _settings_of(run: Path, config: Config) -> Config:
    """The settings that `run` was trained with, for longer if `config` says so."""
    saved = runs.read_config(run)["config"]
    names = [field.name for field in dataclasses.fields(Config)]
    kept = Config(**{name: _tuple(saved[name]) for name in names if name in saved})
    asked = [name for name in names if getattr(config, name) != getattr(Config(), name)]
    for name in asked:
        if name != "num_timesteps" and getattr(config, name) != getattr(kept, name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag} can't change in the middle of a run: it is {getattr(kept, name)} in "
                f"{run}; leave it out, or start a new run."
            )
    if "num_timesteps" in asked:
        kept = dataclasses.replace(kept, num_timesteps=config.num_timesteps)
    return kept


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _wandb_report(project: str | None, config: Config) -> Callable[[Mapping[str, float]], None]:
    """Sends each evaluation to Weights & Biases, if asked to."""
    if project is None:
        return lambda row: None
    try:
        import wandb  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise UsageError(
            "--wandb needs the package wandb: install the extra with `uv sync --extra wandb`."
        ) from None
    wandb_run = wandb.init(project=project, config=dataclasses.asdict(config))
    return lambda row: wandb_run.log(dict(row), step=int(row["steps"]))


if __name__ == "__main__":
    main()
