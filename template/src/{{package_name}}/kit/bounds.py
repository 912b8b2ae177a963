"""What a setting or a flag may be, written once: in the type of its field."""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .errors import UsageError

LARGEST = 3e38  # about the largest float32


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The range of a number, in the `Annotated` type of a field: see `check_all`.

    Attributes:
      low: the smallest number that is allowed.
      high: the largest one; `LARGEST` if any float32 will do.
      above: `low` itself is not allowed.
      why: the reason, for the message.
    """

    low: float
    high: float = LARGEST
    above: bool = False
    why: str = ""

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.high == LARGEST:
            return f"greater than {self.low:g}" if self.above else f"{self.low:g} or more"
        low, high = (f"{x:,}" if abs(x) >= 1000 else f"{x:g}" for x in (self.low, self.high))
        return f"from {low} to {high}" + (f": {self.why}" if self.why else "")

    def check(self, name: str, value: float) -> None:
        """Raises UsageError if a number is out of range."""
        if value not in self:
            raise UsageError(f"{name} is {value:,}, which has to be {self}.")


POSITIVE = Bounds(0, above=True)
NOT_NEGATIVE = Bounds(0)
FRACTION = Bounds(0, 1)
MANY = Bounds(1, 1_000_000)
SEED = Bounds(0, 2**32 - 1)
FRAMES = Bounds(1, 10_000)
EPISODES = Bounds(2, 1000)  # that `diagnose` plays: many need gigabytes with images
STEPS = Bounds(0, 10**18)
MINUTES = Bounds(0, 1e6)
SECONDS = Bounds(1e-3, 1e7)
FINITE = Bounds(-1e300, 1e300)


def as_flag(name: str) -> str:
    """The flag that sets a field."""
    return f"--{name.replace('_', '-')}"


def check_all(
    kind: type, values: Mapping[str, Any], show: Callable[[str], str] = lambda name: name
) -> None:
    """Checks values of the fields of a dataclass against the types there.

    Args:
      kind: the dataclass.
      values: by field; fields that are missing are not checked.
      show: how a message writes the name of a field.

    Raises:
      UsageError: a value is of another type, is none of the choices or is out of range.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name in values:
            value = values[field.name]
            right = _what_it_has_to_be(hints[field.name], value)
            if right:
                shown = f"{value:,}" if type(value) in (int, float) else repr(value)
                raise UsageError(f"{show(field.name)} is {shown}, which has to be {right}.")


def _what_it_has_to_be(hint: Any, value: Any) -> str:
    """Says what `value` is not; empty if it is right, or if `hint` is of no kind listed here."""
    notes: Iterable[Any] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *notes = typing.get_args(hint)
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    or_none = types.NoneType in kinds
    if value is None and or_none:
        return ""
    right = _what_one_kind_has_to_be(kinds[0], notes, value)
    return f"{right}, or None" if right and or_none else right


def _what_one_kind_has_to_be(kind: Any, notes: Iterable[Any], value: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        return "" if value in choices else f"one of {', '.join(choices)}"
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind not in (int, float):
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "a plain Python number"
    if kind is int and not isinstance(value, int):
        return "a whole number"
    return next((str(x) for x in notes if isinstance(x, Bounds) and value not in x), "")
