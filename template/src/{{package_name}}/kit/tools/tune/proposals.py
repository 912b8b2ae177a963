"""New settings, proposed by Optuna from those that are known."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ...run import commands


def propose(
    ranges: Mapping[str, tuple[float, float]], known: Sequence[Mapping[str, float]], count: int
) -> list[dict[str, float]]:
    """Numbers for new settings, each with the two digits that config.py gets.

    Args:
      ranges: of each number, searched on a logarithmic scale.
      known: settings that have trained, worst first.
      count: how many to propose.
    """
    optuna = import_optuna()
    made = optuna.distributions.FloatDistribution
    space = {name: made(*bounds, log=True) for name, bounds in ranges.items()}
    sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=True)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    # The sampler looks at the order of the values alone.
    study.add_trials(
        optuna.trial.create_trial(params=dict(numbers), distributions=space, value=float(rank))
        for rank, numbers in enumerate(known)
    )
    asked = [study.ask(space).params for _ in range(count)]
    return [{name: float(f"{x:.2g}") for name, x in params.items()} for params in asked]


def import_optuna() -> Any:
    """Optuna, without a word of its own; raises UsageError if it is missing."""
    commands.require("optuna", "tune", "tune")
    import optuna  # type: ignore[import-not-found, unused-ignore]

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna
