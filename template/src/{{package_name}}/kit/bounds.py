"""The range of a number that a user gives, written once: for its flag and for its function."""

import dataclasses
import typing
from typing import Any

from .errors import UsageError


@dataclasses.dataclass(frozen=True)
class Bounds:
    """From `low` to `high`, both allowed. `check_all` finds it in `Annotated`."""

    low: float
    high: float

    def check(self, name: str, value: float) -> None:
        """Raises UsageError if a number is out of range, or is none."""
        if not self.low <= value <= self.high:
            limits = (f"{x:,}" if abs(x) >= 1000 else f"{x:g}" for x in (self.low, self.high))
            raise UsageError(f"{name} is {value:,}, which has to be from {' to '.join(limits)}.")


MANY = Bounds(1, 1_000_000)
SEED = Bounds(0, 2**32 - 1)
FRAMES = Bounds(1, 10_000)
STEPS = Bounds(0, 10**18)
MINUTES = Bounds(0, 1e6)
SECONDS = Bounds(1e-3, 1e7)
FINITE = Bounds(-1e300, 1e300)


def check_all(flags: Any) -> None:
    """Checks the fields of a dataclass; None is allowed. Raises UsageError."""
    for name, kind in typing.get_type_hints(type(flags), include_extras=True).items():
        value = getattr(flags, name)
        for bounds in getattr(kind, "__metadata__", ()):
            if isinstance(bounds, Bounds) and value is not None:
                bounds.check(f"--{name.replace('_', '-')}", value)
