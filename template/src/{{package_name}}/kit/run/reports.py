"""Where a run reports to: TensorBoard and Weights & Biases."""

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..ppo.settings import PPOConfig
from . import commands
from .display import Row, mean_of
from .files import folder, quoted, refuse_no_folder


class Reporter:
    """Sends evaluations to TensorBoard, Weights & Biases, both or neither; see `reporters`.

    One that fails, on a full disk or because its process was killed, is left out from then on:
    training is worth more than its reports.

    Attributes:
      places: a line for each of them that says where to look.
    """

    def __init__(
        self, parts: "Sequence[_TensorBoard | _Wandb]" = (), say: Callable[[str], None] = print
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
                why = (str(error) or type(error).__name__).rstrip(".")
                self._say(f"{part.name} gets no more reports: {why}.")


def reporters(
    run: Path,
    settings: PPOConfig,
    tensorboard: bool,
    wandb: str | None,
    say: Callable[[str], None] = print,
) -> Reporter:
    """Opens what a run reports to; `say` is told when one of them fails later.

    Event files go to RUN/tensorboard, with several seeds to one folder for each, so that
    TensorBoard draws their curves over each other. `wandb` is a project of Weights & Biases. There,
    with several seeds, `eval/...` and the like are means, and `seed_3/eval/...` are those of the
    seed 3. A resumed run goes on in the same Weights & Biases run, whose files RUN/wandb holds.

    Raises:
      UsageError: the package wandb is missing, or Weights & Biases refuses.
    """
    parts: list[_TensorBoard | _Wandb] = []
    if tensorboard:
        parts.append(_TensorBoard(run, settings))
    if wandb is not None:
        commands.require("wandb", "--wandb", "wandb")
        parts.append(_Wandb(run, settings, wandb))
    return Reporter(parts, say)


def _values(row: Row) -> dict[str, float]:
    return {name: float(x) for name, x in row.items() if name not in ("steps", "seed")}


class _TensorBoard:
    """Writes event files at once.

    On a full disk the thread of tensorboardX's `SummaryWriter` dies, and the process never ends.
    """

    name = "TensorBoard"

    def __init__(self, run: Path, settings: PPOConfig) -> None:
        self._run, self._num_seeds = run, settings.num_seeds
        self._writers: dict[str, Any] = {}
        self.place = f"{self.name}: tensorboard --logdir {quoted(run / 'tensorboard')}"
        refuse_no_folder(run / "tensorboard")

    def report(self, row: Row) -> None:
        name = f"seed_{row['seed']:.0f}" if self._num_seeds > 1 else ""
        values = [{"tag": tag, "simple_value": x} for tag, x in _values(row).items()]
        self._write(name, int(row["steps"]), values)

    def video(self, path: Path, steps: int) -> None:
        from PIL import Image

        with Image.open(path) as gif:
            width, height = gif.size
        size: dict[str, Any] = {"width": width, "height": height, "colorspace": 3}
        image = {**size, "encoded_image_string": path.read_bytes()}
        self._write("", steps, [{"tag": "episode", "image": image}])

    def _write(self, name: str, steps: int, values: list[dict[str, Any]]) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        if name not in self._writers:
            place = folder(self._run, "tensorboard", *filter(None, [name]))
            self._writers[name] = EventsWriter(str(place / "events"), f".{time.time_ns()}")
            # Hides what a killed run reported after the checkpoint that this one went on from.
            log = {"status": SessionLog.START}
            start = Event(wall_time=time.time(), step=steps, session_log=log)
            self._writers[name].write_event(start)
        event = Event(wall_time=time.time(), step=steps, summary={"value": values})
        self._writers[name].write_event(event)
        self._writers[name].flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class _Wandb:
    name = "Weights & Biases"

    def __init__(self, run: Path, settings: PPOConfig, project: str) -> None:
        import wandb  # type: ignore[import-not-found, unused-ignore]

        # wandb names its folders (offline-)run-<date>_<time>-<id>.
        names = sorted(
            path.name.removeprefix("offline-") for path in folder(run, "wandb").glob("*run-*")
        )
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
        if self._run.offline:
            self.place = f"{self.name}: wandb sync {quoted(Path(self._run.dir).parent)}"
        else:
            self.place = f"{self.name}: {self._run.url}"

    def report(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) < self._num_seeds:
            return
        logged = mean_of([_values(row) for row in self._rows])
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
