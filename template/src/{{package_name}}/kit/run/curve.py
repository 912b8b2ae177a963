"""The learning curve of a run, and the statistics of several seeds.

The interquartile mean and its interval are those of Agarwal et al. 2021, arXiv:2108.13264, as the
package rliable computes them.
"""

import contextlib
import io
import logging
import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import files, folder
from .display import FEW_METRICS, Row, metrics_in
from .statistics import bootstrap_interval, interquartile_mean

COLUMNS = 3  # of panels


def draw(run: Path) -> None:
    """Writes learning_curve.png from metrics.jsonl; nothing where there is no evaluation yet.

    One seed: the mean return of each evaluation, with the standard deviation of its episodes.
    Several: each seed's mean return, their median, and their interquartile mean with a 95 %
    interval. A seed that lacks an evaluation is left out there. Both: the mean return of the
    training episodes that ended since the evaluation before; of several seeds the median. Below,
    small, the environment's own metrics, of several seeds the median; of more than six the first.
    """
    rows = folder.read_metrics(run)
    curves = _curves(rows)
    if not curves:
        return
    _import_matplotlib()
    from matplotlib.figure import Figure  # no pyplot, so no window system

    own = sorted(metrics_in(rows), key=lambda name: name != "success")[:FEW_METRICS]
    lines = -(-len(own) // COLUMNS)  # of panels
    figure = Figure(figsize=(7, 4 + 1.7 * lines), layout="constrained")
    grid = figure.add_gridspec(1 + lines, COLUMNS, height_ratios=[4, *[1.7] * lines])
    axes = figure.add_subplot(grid[0, :])
    if len(curves) == 1:
        _draw_one(axes, *curves.values())
    else:
        _draw_several(axes, list(curves.values()))
    _draw_medians(
        axes, rows, "training/episode_reward", "C2:", marker=".", label="training episodes"
    )
    axes.legend(frameon=False, loc="best")
    axes.set(xlabel="environment steps", ylabel="return")
    _set_title(axes, run.absolute().name, 67)
    _set_style(axes)
    for place, name in enumerate(own):
        panel = figure.add_subplot(grid[1 + place // COLUMNS, place % COLUMNS])
        _draw_medians(panel, rows, f"eval/episode_{name}", "C0", marker=".")
        _set_title(panel, name, 26, fontsize="small")
        _set_style(panel)
        panel.tick_params(labelsize="x-small")
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font may lack a character of the name
        figure.savefig(image, dpi=150, format="png")
    files.write(run / "learning_curve.png", image.getvalue())


# NaN, infinity and what only an edited file has are not below it: matplotlib fails near the largest
# float.
LARGEST = 1e100

Curve = dict[float, tuple[float, float]]
"""By number of steps: the mean return of an evaluation, and its standard deviation if known."""


def _curves(rows: Sequence[Row]) -> dict[float, Curve]:
    """By seed, without the evaluations whose return can't be drawn."""
    curves: dict[float, Curve] = {}
    for row in rows:
        numbers = (row.get(f"eval/episode_reward{end}", math.nan) for end in ("", "_std"))
        mean, spread = (x if abs(x) < LARGEST else math.nan for x in numbers)
        if not math.isnan(mean):
            curves.setdefault(row["seed"], {})[row["steps"]] = (mean, spread)
    return curves


def _draw_one(axes: Any, curve: Curve) -> None:
    steps, (mean, spread) = list(curve), np.array(list(curve.values())).T
    axes.fill_between(
        steps, mean - spread, mean + spread, alpha=0.2, linewidth=0, label="± std of episodes"
    )
    axes.plot(steps, mean, marker="o", markersize=3.5, label="mean")


def _draw_several(axes: Any, curves: Sequence[Curve]) -> None:
    for number, curve in enumerate(curves):
        label = f"{len(curves)} seeds" if number == 0 else None
        means = [mean for mean, _ in curve.values()]
        axes.plot(list(curve), means, color="0.55", linewidth=0.7, alpha=0.6, label=label)
    steps = sorted({step for curve in curves for step in curve})
    at_step = [[curve[step][0] for curve in curves if step in curve] for step in steps]
    low, high = np.array([bootstrap_interval(scores) for scores in at_step]).T
    means = [interquartile_mean(scores) for scores in at_step]
    label = "interquartile mean"
    axes.plot(steps, means, color="C0", linewidth=2, marker="o", markersize=3.5, label=label)
    axes.fill_between(
        steps, low, high, color="C0", alpha=0.2, linewidth=0, label="its 95 % interval"
    )
    medians = [np.median(scores) for scores in at_step]
    axes.plot(steps, medians, color="C1", linestyle="--", linewidth=1.4, label="median")


def _draw_medians(axes: Any, rows: Sequence[Row], name: str, style: str, **options: Any) -> None:
    """The median over seeds of a number in the rows."""
    at_step: dict[float, list[float]] = {}
    for row in rows:
        if abs(row.get(name, math.nan)) < LARGEST:
            at_step.setdefault(row["steps"], []).append(row[name])
    if at_step:
        medians = [np.median(values) for values in at_step.values()]
        axes.plot(list(at_step), medians, style, linewidth=1.4, **options)


def _set_title(axes: Any, name: str, length: int, **options: Any) -> None:
    title = "".join(c if c.isprintable() else "?" for c in name)
    title = title if len(title) <= length + 3 else title[:length] + "..."
    axes.set_title(title, parse_math=False, **options)  # a name may hold `$`, not mathematics


def _set_style(axes: Any) -> None:
    from matplotlib import ticker

    axes.xaxis.set_major_locator(ticker.MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))  # 500k, 1M
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.margins(x=0.02)
    axes.spines[["top", "right"]].set_visible(False)


def _import_matplotlib() -> None:
    """Imports it, which takes a second, also where MPLBACKEND names no backend: none is used."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it logs when it caches fonts
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if backend is not None:
        os.environ["MPLBACKEND"] = backend
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
