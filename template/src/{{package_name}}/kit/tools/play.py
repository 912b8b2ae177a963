"""A trained policy beside a random one."""

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from ..env.actions import action_space_of
from ..env.episodes import EpisodeSums, Policy, random_policy, run_episodes
from ..errors import UsageError
from ..ppo.task import Task
from ..run import files, folder, gif
from ..run.display import few_metrics, number


@dataclass(frozen=True)
class Episodes:
    """What episodes came to, (num_episodes,) float32 each.

    Attributes:
      returns: sums of rewards.
      lengths: numbers of steps.
      metrics: sums of each metric of the environment.
    """

    returns: np.ndarray
    lengths: np.ndarray
    metrics: dict[str, np.ndarray]


def play(
    run: Path,
    task: Task,
    *,
    steps: int | None = None,
    seed: int | None = None,
    episodes: int = 128,
    max_frames: int = 200,
    episode_seed: int = 0,
) -> None:
    """Prints what episodes come to, and draws some of them into RUN/play.gif.

    Args:
      run: a run folder.
      task: what was trained, with the settings of the run.
      steps: which checkpoint; the newest if None.
      seed: which seed of the run; the one that was best at that checkpoint if None.
      episodes: how many of each policy.
      max_frames: actions after which a drawn episode is cut.
      episode_seed: of the episodes.

    Raises:
      UsageError: the run can't be used.
    """
    if seed is None and task.settings.num_seeds > 1:
        newest = max(folder.checkpoints(run), default=None)
        steps, seed = folder.best(run, newest if steps is None else steps)
        print(f"Seed {seed}, the best one after {steps:,} steps; see --seed.")
    trained = folder.load_policy(run, task, steps=steps, seed=seed)
    random = random_policy(action_space_of(task.environment()))
    played = {
        name: evaluate(task, policy, num_episodes=episodes, seed=episode_seed)
        for name, policy in (("trained", trained), ("random", random))
    }
    print(f"{episodes} episodes each:")
    Console().print(_table(played))
    try:
        cut = gif.write_gif(
            run / "play.gif", task, trained, max_frames=max_frames, seed=episode_seed
        )
    except UsageError as error:
        print(f"No GIF: {error}.")
        return
    text = f"Three episodes are drawn in {files.printable(run / 'play.gif')}"
    if cut:
        text += f"; {cut} of them cut after {max_frames} frames, see --max-frames"
    print(f"{text}.")


def _table(played: dict[str, Episodes]) -> Table:
    """A row for the return, the length and each of few metrics, with columns for each policy."""
    table = Table("per episode", *(x for name in played for x in (name, "± std")))
    rows = {name: {"return": x.returns, "length": x.lengths} for name, x in played.items()}
    for name, x in played.items():
        rows[name] |= {metric: x.metrics[metric] for metric in few_metrics(list(x.metrics))}
    for row in next(iter(rows.values())):
        values = [values[row] for values in rows.values()]
        table.add_row(
            files.printable(row),
            *(number(x) for value in values for x in (value.mean(), value.std())),
        )
    return table


def evaluate(task: Task, policy: Policy, *, num_episodes: int = 128, seed: int = 0) -> Episodes:
    """Plays whole episodes of a task, without domain randomisation.

    The same seed gives the same episodes.
    """
    env = task.batched(training=False)

    @jax.jit
    def run(seed: jax.Array) -> EpisodeSums:
        return run_episodes(
            env,
            policy,
            jax.random.PRNGKey(seed),
            num_envs=num_episodes,
            num_steps=task.settings.episode_length // task.settings.action_repeat,
        )

    sums = jax.device_get(run(np.uint32(seed)))
    returns = sums.metrics.pop("reward")
    return Episodes(returns, sums.steps, sums.metrics)
