"""One training run, from settings to a run folder. The template's: not for editing."""

import math
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import jax
import numpy as np
from brax.envs.base import Env
from brax.training.agents.ppo.networks import PPONetworks
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from . import runs
from .ppo import PPOConfig, make_ppo


class TrainingDivergedError(Exception):
    """A loss or a return is not a number; the message says when and what was kept."""


def train(
    environment: Env,
    config: PPOConfig,
    network_factory: Callable[..., PPONetworks],
    *,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    report: Callable[[Mapping[str, float]], None] = lambda row: None,
    console: Console | None = None,
) -> Path:
    """Trains a policy and leaves a run folder.

    Args:
      environment: one environment, not yet batched.
      config: settings without `problems()`.
      network_factory: see `kit.networks.make_network_factory`.
      run_dir: the folder to make; `runs/<date and time>` if None.
      resume: go on from the newest checkpoint in `run_dir`, up to `config.num_timesteps`. The
        result is what one uninterrupted run would have given.
      report: called after each evaluation with what metrics.jsonl gets.
      console: where progress is shown; stdout if None.

    Returns:
      The run folder; `kit.runs` says what is in it.

    Raises:
      ValueError: PPO can't run with these settings; nothing was compiled or written.
      RunError: the run folder can't be used.
      TrainingDivergedError: a loss or a return is no finite number any more.
    """
    console = console or Console()
    run = Path(run_dir or Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    ppo = make_ppo(environment, config, network_factory)
    seed = np.uint32(config.seed)
    shapes = jax.eval_shape(ppo.init, seed)

    done = 0  # updates
    if resume:
        state = runs.load_checkpoint(run, shapes)
        done = int(state.updates)
        if done >= config.num_updates:
            raise runs.RunError(
                f"{run} has {done * config.steps_per_update:,} steps already; "
                "ask for more with --num-timesteps."
            )
        runs.forget_after(run, done * config.steps_per_update)
    else:
        observation_shape = jax.tree.map(lambda x: x.shape[1:], shapes.env_state.obs)
        runs.create(run, config, network_factory, observation_shape, environment.action_size)

    total = config.num_updates * config.steps_per_update
    console.print(
        f"Training for {total:,} steps ({config.num_updates:,} updates of "
        f"{config.steps_per_update:,}; {config.num_timesteps:,} asked for) into {run}",
        highlight=False,
        soft_wrap=True,
    )
    # Compiled before the clock starts, so that steps/s is about running.
    with console.status("compiling"):
        epoch = jax.jit(ppo.epoch, donate_argnums=0).lower(shapes, np.int32(0)).compile()
        if not resume:
            state = jax.jit(ppo.init)(seed)

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
            task = progress.add_task("", total=total, completed=done * config.steps_per_update)
            for target in _evaluations(config):
                if resume and target <= done:
                    continue
                start = time.perf_counter()
                state, metrics = epoch(state, np.int32(target - done))
                metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
                seconds = time.perf_counter() - start
                steps = target * config.steps_per_update
                row = {"steps": steps, **metrics}
                row["sps"] = (target - done) * config.steps_per_update / seconds
                _refuse_nan(run, row)
                runs.append_metrics(run, row)
                runs.save_checkpoint(run, state, steps)
                report(row)
                progress.update(task, completed=steps)
                console.print(_line(row), highlight=False, soft_wrap=True)
                done = target
    except KeyboardInterrupt:
        console.print(f"Stopped. Go on with: train --resume {run}", highlight=False, soft_wrap=True)
        raise
    finally:
        if len(runs.read_metrics(run)) > 1:
            runs.draw_learning_curve(run)
    return run


def _evaluations(config: PPOConfig) -> list[int]:
    """After how many updates each evaluation comes, evenly spread from none to all."""
    marks = np.linspace(0, config.num_updates, config.num_evals).round().astype(int)
    return [int(mark) for mark in np.unique(marks)]


def _refuse_nan(run: Path, row: Mapping[str, float]) -> None:
    broken = [name for name, value in row.items() if not math.isfinite(value)]
    if broken:
        kept = runs.checkpoints(run)
        raise TrainingDivergedError(
            f"{broken[0]} is {row[broken[0]]} by step {row['steps']:,}: training has diverged and "
            f"was stopped. Saved up to step {max(kept, default=0):,} in {run}; try a smaller "
            "--learning-rate or --max-grad-norm, and see that rewards and observations are finite."
        )


def _line(row: Mapping[str, float]) -> str:
    speed = f"{row['sps']:10,.0f} steps/s" if row["steps"] else ""
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
    # By default only what took a second or is large is kept; here most programs are neither.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
