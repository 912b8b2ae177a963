"""What a run prints: a line that moves, and lines that stay."""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from .files import printable

Row = Mapping[str, float]

RETURN = "eval/episode_reward"
FEW_METRICS = 6


def number(x: float) -> str:
    """`x` with two decimals, or with four digits where those would be 0 or too many."""
    is_usual = x == 0 or 0.1 <= abs(x) < 1e6
    return f"{x + 0.0:.2f}" if is_usual else f"{x:.4g}"  # + 0.0: no -0.00


def mean_of(rows: Sequence[Row]) -> dict[str, float]:
    """The mean of each number over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def metrics_in(rows: Iterable[Row]) -> list[str]:
    """The names of the environment's own metrics, which evaluations sum over each episode."""
    start = "eval/episode_"
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(start))
    own = (name.removeprefix(start) for name in names)
    return [name for name in own if name not in ("reward", "reward_std")]


def few_metrics(names: Sequence[str]) -> list[str]:
    """The metrics to show beside the return: at most six, or of more `success` alone."""
    return [name for name in names if len(names) <= FEW_METRICS or name == "success"]


def evaluation_line(rows: Sequence[Row]) -> str:
    """An evaluation in a line: means over the seeds, whose rows these are."""
    mean = mean_of(rows)
    # Over episodes for one seed, over seeds for several.
    spread = mean["eval/episode_reward_std"]
    if len(rows) > 1:
        spread = float(np.std([row[RETURN] for row in rows]))
    text = f"{rows[0]['steps']:>12,} steps   return {number(mean[RETURN]):>9} ± {number(spread)}   "
    beside = ""
    if "training/episode_reward" in mean:
        beside = f"in training {number(mean['training/episode_reward']):>9}"
    text += f"{beside:21}   length {mean['eval/avg_episode_length']:6.1f}   "
    if "training/sps" in mean:
        text += f"{mean['training/sps']:10,.0f} steps/s"
    for name in few_metrics(metrics_in(rows)):
        text += f"   {name} {number(mean[f'eval/episode_{name}'])}"
    return text.rstrip()


class Display:
    """A line that moves while a run trains, and lines that stay. To be used with `with`.

    Without a terminal there are only lines that stay. A resumed run has some `steps` already.
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

    def __exit__(self, *exception: object) -> None:
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
        """Moves the line to `steps`; shows return and loss of the `training/...` values.

        Either may be missing, or not finite.
        """
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
