"""The table of the best settings."""

import numpy as np
from rich.table import Column, Table

from ...ppo.settings import PPOConfig
from ...run.statistics import bootstrap_interval, interquartile_mean
from .ladder import Result, solved_after

SHOWN = 3  # settings, besides those of config.py


def table(own: PPOConfig, results: list[Result], threshold: float | None) -> Table:
    """The best settings, a column for each, and those of config.py.

    Returns are of the seeds that had no part in the choice of the settings. Where there are none
    yet, returns are of those that had, without an interval.
    """
    shown = [result for result in results if result.settings][:SHOWN]
    shown += [result for result in results if not result.settings]
    columns = [str(n + 1) if result.settings else "config.py" for n, result in enumerate(shown)]
    curves = [x.confirmed if x.confirmed.returns.size else x.curves for x in shown]
    last = [x.returns[-1] for x in curves]
    made = Table(Column("", no_wrap=True), *columns)
    made.add_row("return", *(f"{interquartile_mean(x):.4g}" for x in last))
    made.add_row("95 % interval", *map(_interval, shown))
    made.add_row("seeds", *(str(len(x)) for x in last))
    made.add_row("steps", *(f"{x.steps[-1]:,}" for x in curves))
    if threshold is not None:
        solved = [solved_after(x, threshold) for x in curves]
        medians = [float(np.median(x)) for x in solved]
        made.add_row(f"seeds at {threshold:g}", *(str(np.isfinite(x).sum()) for x in solved))
        made.add_row("after steps", *(f"{x:,.0f}" if np.isfinite(x) else "-" for x in medians))
    made.add_section()
    for name in dict.fromkeys(name for result in shown for name in result.settings):
        made.add_row(name, *(str(x.settings.get(name, getattr(own, name))) for x in shown))
    return made


def _interval(result: Result) -> str:
    confirmed = result.confirmed.returns
    if not confirmed.size:
        return "not confirmed"
    if confirmed.shape[1] == 1:
        return ""
    low, high = bootstrap_interval(confirmed[-1])
    return f"{low:.4g} to {high:.4g}"
