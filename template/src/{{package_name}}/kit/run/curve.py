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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import files, folder
from .statistics import bootstrap_interval, interquartile_mean


def draw(run: Path) -> None:
    """Writes learning_curve.png from metrics.jsonl; nothing where there is no evaluation yet.

    One seed: the mean return of each evaluation, with the standard deviation of its episodes.
    Several: each seed's mean return, their median, and their interquartile mean with a 95 %
    interval. A seed that lacks an evaluation is left out there. Both: the mean return of the
    training episodes that ended since the evaluation before; of several seeds the median.
    """
    rows = folder.read_metrics(run)
    curves = _curves(rows)
    if not curves:
        return
    _import_matplotlib()
    from matplotlib import ticker
    from matplotlib.figure import Figure  # no pyplot, so no window system

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    if len(curves) == 1:
        _draw_one(axes, *curves.values())
    else:
        _draw_several(axes, list(curves.values()))
    _draw_training(axes, rows)
    axes.legend(frameon=False, loc="best")
    name = run.absolute().name
    title = "".join(c if c.isprintable() else "?" for c in name)
    axes.set(xlabel="environment steps", ylabel="return")
    # A name may hold `$`, which is no mathematics.
    axes.set_title(title if len(title) < 70 else title[:67] + "...", parse_math=False)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))  # 500k, 1M
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.margins(x=0.02)
    axes.spines[["top", "right"]].set_visible(False)
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


def _curves(rows: Sequence[Mapping[str, float]]) -> dict[float, Curve]:
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


def _draw_training(axes: Any, rows: Sequence[Mapping[str, float]]) -> None:
    """The returns of training episodes, whose actions are sampled."""
    at_step: dict[float, list[float]] = {}
    for row in rows:
        if abs(row.get("training/episode_reward", math.nan)) < LARGEST:
            at_step.setdefault(row["steps"], []).append(row["training/episode_reward"])
    if at_step:
        steps, medians = list(at_step), [np.median(returns) for returns in at_step.values()]
        axes.plot(steps, medians, "C2:", marker=".", linewidth=1.4, label="training episodes")


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
