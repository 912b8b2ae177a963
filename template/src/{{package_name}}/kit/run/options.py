"""How a run is executed, shown and saved."""

from dataclasses import dataclass
from typing import Annotated

from ..bounds import MANY, Bounds, as_flag, check_all


@dataclass(frozen=True)
class Options:
    """None of it changes what is learned. Each is a flag of `train`.

    Raises:
      UsageError: a number is out of range.
    """

    checkpoint_every: Annotated[float, Bounds(0, 1e6, above=True)] = 10.0
    """Minutes between saves of what --resume needs. Every evaluation saves it too."""
    keep: Annotated[int, MANY] = 10
    """How many of the newest checkpoints to keep; the best one is always kept."""
    tensorboard: bool = False
    """Write event files for TensorBoard to the run folder."""
    wandb: str | None = None
    """A Weights & Biases project to report to; needs the extra `wandb`."""
    profile: bool = False
    """Write a jax.profiler trace of some updates to the run folder."""
    num_devices: int | None = None
    """Devices to use; all by default. They share the seeds, or the environments of one seed."""

    def __post_init__(self) -> None:
        check_all(Options, vars(self), as_flag)
