"""What a run shows: a live line, early advice, and reports to TensorBoard and Weights & Biases."""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from .files import printable

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


def _mean(rows: Sequence[Row]) -> dict[str, float]:
    names = {name: None for row in rows for name in row}
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
