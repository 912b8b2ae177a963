"""Errors whose message is for people: one sentence that says what is wrong and what would be right.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""


class UsageError(ValueError):
    """Settings, networks, arguments or a run folder that can't be used. Exit code 2."""


class TrainingDivergedError(Exception):
    """A loss, an observation or a reward is not a finite number any more. Exit code 1."""


class TrainingStopped(KeyboardInterrupt):
    """A signal ended the run, after all of it was saved. Exit code 128 + `signal`."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class OutOfMemoryError(Exception):
    """The device has too little memory for these settings. Exit code 1."""
