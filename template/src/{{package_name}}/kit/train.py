"""One training run, from a task to a run folder.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

import math
import os
import shlex
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from . import runs
from .errors import TrainingDivergedError, UsageError
from .ppo import PPOConfig
from .task import Task


def train(
    task: Task,
    *,
    name: str = "task",
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    init_from: str | os.PathLike[str] | None = None,
    report: Callable[[Mapping[str, float]], None] = lambda row: None,
    console: Console | None = None,
) -> Path:
    """Trains a policy and leaves a run folder.

    Args:
      task: what to train.
      name: what `config.py` calls it.
      run_dir: the folder to make; `runs/<date and time>` if None.
      resume: go on from the newest checkpoint in `run_dir`, up to the task's `num_timesteps`. With
        the settings of the run the result is that of one uninterrupted run.
      init_from: a run folder whose newest parameters a new run starts from.
      report: called after each evaluation with the row that metrics.jsonl gets.
      console: where progress is shown; stdout if None.

    Returns:
      The run folder; `kit.runs` says what is in it.

    Raises:
      UsageError: PPO can't train this task, or a run folder can't be used; nothing was compiled.
      TrainingDivergedError: a loss or a return is not a finite number any more.
    """
    console = console or Console()
    config = task.settings
    run = Path(run_dir or Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    ppo = task.make_ppo()
    seed = np.uint32(config.seed)
    shapes = jax.eval_shape(ppo.init, seed)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    done = 0  # updates
    if resume:
        runs.refuse_other_sizes(run, task.environment())
        state = runs.load_checkpoint(run, shapes)
        done = int(state.updates)
        if done >= config.num_updates:
            raise UsageError(
                f"{run} has {done * config.steps_per_update:,} steps already; "
                "ask for more with --num-timesteps."
            )
        if runs.read_config(run)["source"] != runs.source_of(task.environment()):
            say(
                "The file that defines the environment has changed since this run started; "
                "training continues with the new file."
            )
        runs.forget_after(run, done * config.steps_per_update)
        runs.write_config(run, name, task)
    else:
        runs.refuse_existing(run)
        given = None
        if init_from is not None:
            runs.refuse_other_sizes(Path(init_from), task.environment())
            given = runs.load_parameters(Path(init_from), shapes)

    total = config.num_updates * config.steps_per_update
    say(
        f"Training for {total:,} steps ({config.num_timesteps:,} asked for; "
        f"{config.steps_per_update:,} an update) into {run}"
    )
    # Compiled before the clock starts, so that steps/s is about running.
    with console.status("compiling"):
        epoch = jax.jit(ppo.epoch, donate_argnums=0).lower(shapes, np.int32(1)).compile()
        evaluate = jax.jit(ppo.evaluate).lower(shapes).compile()
        if not resume:
            state = jax.jit(ppo.init)(seed)
            if given is not None:
                state = state.replace(
                    params=given.params, normalizer_params=given.normalizer_params
                )
            runs.create(run, name, task)

    progress = Progress(
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    try:
        with progress:
            bar = progress.add_task("", total=total, completed=done * config.steps_per_update)
            for target in _evaluations(config):
                if resume and target <= done:
                    continue
                steps = target * config.steps_per_update
                row: dict[str, float] = {"steps": steps}
                if target > done:
                    start = time.perf_counter()
                    state, metrics = jax.block_until_ready(epoch(state, np.int32(target - done)))
                    seconds = time.perf_counter() - start  # without the evaluation
                    row |= {key: float(value) for key, value in metrics.items()}
                    row["training/sps"] = (target - done) * config.steps_per_update / seconds
                row |= {key: float(value) for key, value in evaluate(state).items()}
                _refuse_nan(run, row)
                runs.save_checkpoint(run, state, steps)
                runs.append_metrics(run, row)
                report(row)
                progress.update(bar, completed=steps)
                say(_line(row))
                done = target
    except KeyboardInterrupt:
        if runs.checkpoints(run):
            say(f"Stopped. Continue with: train --resume {shlex.quote(str(run))}")
        raise
    finally:
        rows = runs.read_metrics(run)
        if len(rows) > 1:
            runs.draw_learning_curve(run)
    if all(row["eval/time_limit_reached"] > 0.99 for row in rows):
        say(
            f"Nearly every episode was cut off by the time limit of {config.episode_length} steps. "
            "If the task has an end of its own, the limit may be too short to reach it."
        )
    return run


def _evaluations(config: PPOConfig) -> list[int]:
    """The numbers of updates at which to evaluate, evenly spaced from 0 to all."""
    marks = np.linspace(0, config.num_updates, config.num_evals).round().astype(int)
    return [int(mark) for mark in np.unique(marks)]


def _refuse_nan(run: Path, row: Mapping[str, float]) -> None:
    broken = [name for name, value in row.items() if not math.isfinite(value)]
    if not broken:
        return
    what = f"{broken[0]} is {row[broken[0]]}"
    if not row["steps"]:
        raise TrainingDivergedError(
            f"{what} before any training: the environment returns it. Run `check` to see where."
        )
    raise TrainingDivergedError(
        f"{what} at step {row['steps']:,}: training has diverged and was stopped. Saved up to "
        f"step {max(runs.checkpoints(run)):,} in {run}. Try a smaller --learning-rate or "
        "--max-grad-norm, and run `check` to see whether rewards and observations are finite."
    )


def _line(row: Mapping[str, float]) -> str:
    speed = f"{row['training/sps']:10,.0f} steps/s" if "training/sps" in row else ""
    return (
        f"{row['steps']:>12,} steps   return {row['eval/episode_reward']:9.2f} "
        f"± {row['eval/episode_reward_std']:.2f}   length {row['eval/avg_episode_length']:6.1f}"
        f"   {speed}"
    ).rstrip()


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that a second run starts fast.

    In the folder that JAX_COMPILATION_CACHE_DIR names, else in the user's cache folder.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = str(Path(base) / "jax-compilation-cache")
    jax.config.update("jax_compilation_cache_dir", folder)
    # By default only programs that took a second to compile are kept; most here are faster.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
