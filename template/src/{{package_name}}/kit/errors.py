"""Errors whose message is for people: one sentence that says what is wrong and what would be right.

From the template: changes of yours are kept, `copier update` merges new versions in.
"""


class UsageError(ValueError):
    """Settings, networks, arguments or a run folder that can't be used. Exit code 2."""


class TrainingDivergedError(Exception):
    """A loss or a return is not a finite number any more. Exit code 1."""
