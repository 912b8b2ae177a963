"""What a run shows: a live line, early advice, and reports to TensorBoard and Weights & Biases.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""

import contextlib
import dataclasses
import importlib.util
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from .actions import ActionSpace, Continuous, Discrete
from .errors import UsageError
from .files import printable, quoted, refuse_link
from .ppo import PPOConfig

Row = Mapping[str, float]


def number(x: float) -> str:
    """`x` with two decimals, or with four digits where those would be 0 or too many."""
    is_usual = x == 0 or 0.1 <= abs(x) < 1e6
    return f"{x + 0.0:.2f}" if is_usual else f"{x:.4g}"  # + 0.0: no -0.00


class Display:
    """A line that moves while a run trains, and lines that stay.

    Without a terminal there are only lines that stay. To be used with `with`.

    Args:
      console: where to print.
      total_steps: steps of the whole run.
      steps: those that a resumed run has already.
    """

    def __init__(self, console: Console, total_steps: int, steps: int = 0) -> None:
        # FORCE_COLOR makes rich believe in a terminal; a moving line would still spoil a file.
        self._live = console.is_interactive and console.file.isatty()
        self._console = console
        self._said: set[str] = set()
        self._progress = Progress(
            BarColumn(bar_width=min(40, max(4, console.width - 88))),
            _Line(),
            console=console,
            transient=True,
            disable=not self._live,
            refresh_per_second=4,  # each refresh takes time from training
            speed_estimate_period=600,  # seconds; evaluations count too
        )
        self._bar = self._progress.add_task(
            "", total=total_steps, completed=steps, visible=False, text=""
        )

    def __enter__(self) -> Self:
        self._progress.start()
        if self._live:
            # Rich hides the cursor, which a process that is killed could not show again.
            self._console.show_cursor(True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Prints a line that stays; what the terminal would obey or can't show is escaped."""
        shown, encoding = printable(text), self._console.encoding
        try:
            shown.encode(encoding)
        except UnicodeEncodeError:
            shown = shown.replace("±", "+-").encode(encoding, "backslashreplace").decode(encoding)
        # A `Text`, because rich would replace `[/]` and `:fire:` in a string.
        self._console.print(Text(shown), soft_wrap=True)

    def advise(self, texts: Iterable[str]) -> None:
        """Says those that were not said yet."""
        for text in texts:
            if text not in self._said:
                self._said.add(text)
                self.say(text)

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Shows that something compiles, and says how long it took."""
        start = time.perf_counter()
        if not self._live:
            self.say("Compiling ...")
        task = self._progress.add_task("", total=None, text="compiling")
        try:
            yield
        finally:
            self._progress.remove_task(task)
        self.say(f"Compiled in {time.perf_counter() - start:.1f} s.")

    def progress(self, steps: int, steps_per_second: float, values: Row) -> None:
        """Moves the line.

        Args:
          steps: those of the whole run so far.
          steps_per_second: of the last updates.
          values: `training/...`, of which the line shows the return and the loss; either may be
            missing, or not finite where no episode has ended.
        """
        if not self._live:
            return
        text = f"{steps:,} steps  {steps_per_second:,.0f} steps/s"
        for name, key in (("return", "episode_reward"), ("loss", "total_loss")):
            value = values.get(f"training/{key}", math.nan)
            if math.isfinite(value):
                text += f"  {name} {number(value)}"
        self._progress.update(self._bar, completed=steps, visible=True, text=text)


class _Line(ProgressColumn):
    """The text beside the bar; ASCII alone, since any stream can hold that."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True, overflow="crop"))

    def render(self, task: Task) -> Text:
        text = task.fields["text"]
        if task.total is None:
            return Text(f"{text} {task.elapsed or 0:.0f} s")
        if task.time_remaining is not None:
            text = f"{timedelta(seconds=round(task.time_remaining))} left  {text}"
        return Text(f"{math.floor(task.percentage):3d} %  {text}")


# ---- early advice -------------------------------------------------------------------------------

FEW_UPDATES = 20


def few_updates(settings: PPOConfig, num_devices: int) -> list[str]:
    """A sentence about a new run of so few updates that it can hardly learn, if it is one.

    Args:
      settings: of the run.
      num_devices: how many share its work.
    """
    if settings.num_updates >= FEW_UPDATES:
        return []
    divided = num_devices if settings.num_seeds == 1 else 1
    per_rollout = settings.steps_per_update // settings.batch_size
    more = f"--num-timesteps {FEW_UPDATES * settings.steps_per_update}"
    for batch in range(settings.batch_size - 1, 0, -1):
        is_valid = not (batch * settings.num_minibatches % settings.num_envs or batch % divided)
        if is_valid and -(-settings.num_timesteps // (batch * per_rollout)) >= FEW_UPDATES:
            more = f"--batch-size {batch} or {more}"
            break
    updates = "1 update" if settings.num_updates == 1 else f"{settings.num_updates} updates"
    return [f"Little can be learned in {updates}: for {FEW_UPDATES} or more, try {more}."]


def advice(
    settings: PPOConfig, action_space: ActionSpace, rows: Sequence[Row], statistics: Any = None
) -> list[str]:
    """What may be wrong with a run, and what to try.

    A text depends on the settings alone, so that `Display.advise` can say each once.

    Args:
      settings: of the run.
      action_space: of the environment.
      rows: all evaluations so far, and the `training/...` values of any updates between them, each
        with its "steps" and, with several seeds, its "seed".
      statistics: the running statistics of the observations, with any leading axes; None before
        training.
    """
    sampled_better = _where_sampled_actions_are_better(settings, rows)
    found = {
        f"Nearly every episode was cut off by the time limit of {settings.episode_length} steps. "
        "If the task has an end of its own, the limit may be too short to reach it: try a larger "
        "--episode-length.": _is_cut_off(settings, rows) and not any(sampled_better[-1:]),
        "Training episodes, whose actions are sampled, have a much higher return than the "
        "evaluation, which takes the most likely action: it may repeat one action for ever. To "
        "evaluate sampled actions, use --no-deterministic-eval. If some actions change nothing, "
        "mask them. Or the best policy is stochastic, as in example 13.1 of Sutton and Barto, and "
        "has to be sampled.": len(sampled_better) > 1 and all(sampled_better[-2:]),
        "The reward has been the same at every step so far, so there is nothing to learn from. "
        "Reward progress in `step` too, or let episodes start nearer to the goal; a larger "
        "--episode-length may help to reach it.": _is_reward_constant(rows),
        "Some components of the observation vary more than 1,000 times as much as others, which "
        "networks learn badly from: try --normalize-observations.": (
            not settings.normalize_observations and _differ_in_scale(statistics)
        ),
        "The policy's entropy collapsed in the first tenth of training, so it hardly explores any "
        "more: try a larger --entropy-cost or a smaller --learning-rate.": _is_collapsed(
            settings.num_timesteps, action_space, rows
        ),
    }
    return [text for text, applies in found.items() if applies]


def _evaluations(rows: Sequence[Row]) -> list[Row]:
    """The rows of evaluations; empty as long as none of them follows training."""
    found = [row for row in rows if "eval/episode_reward" in row]
    return found if any(row["steps"] > 0 for row in found) else []


def _is_cut_off(settings: PPOConfig, rows: Sequence[Row]) -> bool:
    """Whether the time limit ended more than 99 % of the episodes of every evaluation.

    And training episodes, whose actions are sampled, were no shorter.
    """
    evaluations, limit = _evaluations(rows), settings.episode_length
    return bool(evaluations) and all(
        row["eval/time_limit_reached"] > 0.99
        and row.get("training/episode_length", limit) > 0.99 * limit
        for row in evaluations
    )


def _where_sampled_actions_are_better(settings: PPOConfig, rows: Sequence[Row]) -> list[bool]:
    """For each evaluation after training began: did training episodes have a much higher return?

    The difference has to be larger than the standard deviation of the evaluation's episodes, than
    three standard errors of their mean, and than a quarter of the range of all mean returns so
    far, which is how much there was to learn. Lower returns mean nothing: a policy that gets
    better is ahead of its training episodes. Where there was no time for two episodes as long as
    the evaluation's, only the short ones have ended in training, and nothing is known.
    """
    if not settings.deterministic_eval:
        return []
    evaluations: dict[float, list[Row]] = {}
    for row in _evaluations(rows):
        evaluations.setdefault(row["steps"], []).append(row)
    names = [
        *("eval/episode_reward", "training/episode_reward"),
        *("eval/episode_reward_std", "eval/avg_episode_length"),
    ]
    found: list[bool] = []
    returns: list[float] = []
    before = 0.0
    for steps, group in sorted(evaluations.items()):
        evaluated, sampled, std, length = (
            float(np.mean([row.get(name, math.nan) for row in group])) for name in names
        )
        returns += [evaluated, sampled]
        had_time = steps - before >= 2 * length * settings.num_envs
        noise = std * max(1.0, 3 / math.sqrt(settings.num_eval_envs))
        much = max(noise, (np.nanmax(returns) - np.nanmin(returns)) / 4)
        if steps > 0:
            found.append(bool(had_time and sampled - evaluated > much))
        before = steps
    return found


def _is_reward_constant(rows: Sequence[Row]) -> bool:
    """Whether every reward of training was the same, and so was every return.

    A reward of 1 for each step until a fall is the same too; but there the length of episodes
    differs, and with it the return.
    """
    ranges = [
        (row["training/reward_min"], row["training/reward_max"])
        for row in rows
        if row.keys() >= {"training/reward_min", "training/reward_max"}
    ]
    if not ranges or not _evaluations(rows):
        return False
    low, high = np.transpose(ranges)
    largest = np.abs(ranges).max()
    # They are means over updates. Those of one row are rounded alike, those of two rows, which may
    # be over 1 update and over 10,000, are not.
    if (high - low).max() > 1e-6 * largest or high.max() - low.min() > 1e-3 * largest:
        return False
    lengths = [row["eval/avg_episode_length"] for row in _evaluations(rows)]
    lengths += [row["training/episode_length"] for row in rows if row.get("training/episodes")]
    return bool(largest == 0 or max(lengths) - min(lengths) < 1e-3)


def _differ_in_scale(statistics: Any) -> bool:
    """Whether standard deviations differ by more than 1e3; constant components don't count."""
    if statistics is None:
        return False
    flat = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)] or [np.zeros(0)])
        for tree in (statistics.mean, statistics.std)
    ]
    mean, std = np.abs(flat[0]), flat[1]
    # Brax's statistics never go below 1e-6, and float32 rounds sums of large constants.
    varies = std > np.maximum(2e-6, 1e-5 * mean)
    return bool(varies.any() and std[varies].max() > 1e3 * std[varies].min())


def _is_collapsed(total_steps: int, action_space: ActionSpace, rows: Sequence[Row]) -> bool:
    """Whether a seed's `training/entropy`, in nats, fell too far too early, for no better return.

    Looked at are the rows of the first tenth of training, or the first one where that is later.
    Choices: below 2 % of the entropy of uniformly random ones. Continuous actions, whose entropy
    has no lower bound: more than 4 nats for each dimension below the first value, which is a
    standard deviation divided by more than 50, or as much pressed against the bounds.
    """
    returns: dict[float, list[float]] = {}
    for row in _evaluations(rows):
        returns.setdefault(row["steps"], []).append(row["eval/episode_reward"])
    if not returns or np.mean(returns[max(returns)]) > np.mean(returns[min(returns)]):
        return False
    seeds: dict[float | None, list[float]] = {}
    for row in rows:
        if "training/entropy" in row:
            entropies = seeds.setdefault(row.get("seed"), [])
            if not entropies or row["steps"] <= total_steps / 10:
                entropies.append(row["training/entropy"])
    if isinstance(action_space, Continuous):
        return any(
            first - min(rest) > 4 * action_space.size for first, *rest in seeds.values() if rest
        )
    choices = (
        (action_space.size,) if isinstance(action_space, Discrete) else action_space.num_choices
    )
    least = 0.02 * sum(map(math.log, choices))
    return any(min(entropies) < least for entropies in seeds.values())


# ---- reports ------------------------------------------------------------------------------------


class Reporter:
    """Sends evaluations to TensorBoard, Weights & Biases, both or neither; see `reporters`.

    One that fails, on a full disk or because its process was killed, is left out from then on:
    training is worth more than its reports.

    Attributes:
      places: a line for each of them that says where to look.
    """

    def __init__(
        self,
        parts: "Sequence[_TensorBoard | _Wandb]" = (),
        say: Callable[[str], None] = print,
    ) -> None:
        self._parts, self._say = list(parts), say
        self.places = [part.place for part in parts]

    def report(self, row: Row) -> None:
        """Sends the row of one seed and evaluation, as metrics.jsonl has it."""
        self._each(lambda part: part.report(row))

    def video(self, path: Path, steps: int) -> None:
        """Sends a GIF of the policy that has trained for so many steps."""
        self._each(lambda part: part.video(path, steps))

    def close(self) -> None:
        """Waits until everything is sent."""
        self._each(lambda part: part.close())

    def _each(self, call: "Callable[[_TensorBoard | _Wandb], None]") -> None:
        for part in list(self._parts):
            try:
                call(part)
            except Exception as error:  # wandb's have no common class
                self._parts.remove(part)
                self._say(f"{part.name} gets no more reports: {error or type(error).__name__}.")


def require_extras(tensorboard: bool, wandb: str | None) -> None:
    """Raises UsageError if a package is missing; imports none of them."""
    for asked, package, how in (
        (tensorboard, "tensorboardX", "`uv add tensorboardx`"),
        (wandb is not None, "wandb", "the extra with `uv sync --extra wandb`"),
    ):
        # A folder of that name, such as wandb leaves, has no origin.
        if asked and getattr(importlib.util.find_spec(package), "origin", None) is None:
            raise UsageError(
                f"--{package.lower().removesuffix('x')} needs the package {package}: install {how}."
            )


def reporters(
    run: Path,
    settings: PPOConfig,
    *,
    tensorboard: bool,
    wandb: str | None,
    say: Callable[[str], None] = print,
) -> Reporter:
    """Opens what a run reports to.

    Args:
      run: the run folder, which exists. Event files go to RUN/tensorboard, with several seeds to
        one folder for each, so that TensorBoard draws their curves over each other. A resumed run
        goes on in the same Weights & Biases run, whose local files RUN/wandb holds.
      settings: of the run.
      tensorboard: whether to write event files.
      wandb: a project of Weights & Biases. With several seeds `eval/...` and the like are means,
        and `seed_3/eval/...` are those of the seed 3.
      say: told when one of them fails later.

    Raises:
      UsageError: a package is missing, or Weights & Biases refuses.
    """
    require_extras(tensorboard, wandb)
    parts: list[_TensorBoard | _Wandb] = []
    if tensorboard:
        parts.append(_TensorBoard(run, settings))
    if wandb is not None:
        parts.append(_Wandb(run, settings, wandb))
    return Reporter(parts, say)


def _values(row: Row) -> dict[str, float]:
    return {name: float(x) for name, x in row.items() if name not in ("steps", "seed")}


class _TensorBoard:
    """Writes event files at once; tensorboardX's SummaryWriter hangs when its thread has failed."""

    name = "TensorBoard"

    def __init__(self, run: Path, settings: PPOConfig) -> None:
        self._folder, self._num_seeds = run / "tensorboard", settings.num_seeds
        self._writers: dict[str, Any] = {}
        self.place = f"{self.name}: tensorboard --logdir {quoted(self._folder)}"
        refuse_link(self._folder)

    def report(self, row: Row) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=x) for tag, x in _values(row).items()]
        name = f"seed_{row['seed']:.0f}" if self._num_seeds > 1 else ""
        self._write(name, Summary(value=values), int(row["steps"]))

    def video(self, path: Path, steps: int) -> None:
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary

        with Image.open(path) as gif:
            width, height = gif.size
        image = Summary.Image(
            width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes()
        )
        self._write("", Summary(value=[Summary.Value(tag="episode", image=image)]), steps)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _write(self, name: str, summary: Any, steps: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        if name not in self._writers:
            folder = self._folder / name
            refuse_link(folder)
            folder.mkdir(parents=True, exist_ok=True)
            writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
            # Hides what a killed run reported after the checkpoint that this one went on from.
            start = SessionLog(status=SessionLog.START)
            writer.write_event(Event(wall_time=time.time(), step=steps, session_log=start))
            self._writers[name] = writer
        self._writers[name].write_event(Event(wall_time=time.time(), step=steps, summary=summary))
        self._writers[name].flush()


class _Wandb:
    name = "Weights & Biases"

    def __init__(self, run: Path, settings: PPOConfig, project: str) -> None:
        import wandb  # type: ignore[import-not-found, unused-ignore]

        refuse_link(run / "wandb")
        # wandb names its folders (offline-)run-<date>_<time>-<id>.
        names = sorted(folder.name.removeprefix("offline-") for folder in run.glob("wandb/*run-*"))
        ids = [found[1] for name in names if (found := re.fullmatch(r"run-\d+_\d+-(\w+)", name))]
        try:
            self._run = wandb.init(
                project=project,
                name=run.absolute().name,
                id=ids[-1] if ids else None,
                resume="allow" if ids else None,
                dir=run,
                config=dataclasses.asdict(settings),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise UsageError(
                f"Weights & Biases can't be used ({str(error).splitlines()[0]}): leave --wandb "
                "out, or set WANDB_MODE=offline."
            ) from None
        self._wandb, self._num_seeds = wandb, settings.num_seeds
        self._rows: list[Row] = []  # of the seeds that one evaluation has reported so far
        self.place = f"{self.name}: " + (
            f"wandb sync {quoted(Path(self._run.dir).parent)}"
            if self._run.offline
            else str(self._run.url)
        )

    def report(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) < self._num_seeds:
            return
        logged = _mean(list(map(_values, self._rows)))
        if self._num_seeds > 1:
            for seed_row in self._rows:
                prefix = f"seed_{seed_row['seed']:.0f}/"
                logged |= {prefix + name: x for name, x in _values(seed_row).items()}
        self._rows = []
        self._run.log(logged, step=int(row["steps"]))

    def video(self, path: Path, steps: int) -> None:
        clip = self._wandb.Video(str(path), format="gif", caption=f"after {steps:,} steps")
        # A step that is over can't be added to, and the best checkpoint may be an old one.
        self._run.log({"episode": clip}, step=max(steps, self._run.step))

    def close(self) -> None:
        self._run.finish()


def _mean(rows: Sequence[Row]) -> dict[str, float]:
    names = {name: None for row in rows for name in row}
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
