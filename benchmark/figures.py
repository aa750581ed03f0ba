"""The figures of the report: a panel per task, a line per arm, a thin line per seed."""

import math
from pathlib import Path

import arms
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
COLORS = {"clip": "#56B4E9", "kl_fixed": "#009E73", "kl_adaptive": "#CC79A7"}
PAPER_DASHES = {"clip": "-", "kl_fixed": (0, (4, 2)), "kl_adaptive": (0, (1, 1))}


def panels(tasks: list[str], ylabel: str, xlabel: str = "environment steps") -> tuple:
    """A figure, and by task its axis."""
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(3.3 * columns, 2.5 * rows + 0.4), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(tasks) :]:
        axis.axis("off")
    by_task = dict(zip(tasks, axes, strict=False))
    for task, axis in by_task.items():
        axis.set(title=task, xlabel=xlabel, ylabel=ylabel)
        if xlabel == "environment steps":
            axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure, by_task


def lines(axis: Axes, curves: pd.DataFrame, column: str, label: str, color: str) -> None:
    """The mean over seeds, and every seed."""
    table = curves.pivot(index="step", columns="seed", values=column)
    axis.plot(table.mean(axis=1, skipna=False).dropna(), label=label, color=color, lw=1.8)
    axis.plot(table, color=color, lw=0.6, alpha=0.5)


def save(figure: Figure, file: Path) -> None:
    """Add one legend below all panels, and write the file."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(file, dpi=140, metadata={"Software": None})


def draw_rules(data, names: list[str], tasks: list[str], file: Path) -> None:
    """The largest KL of every run: a row per rule, the largest on top; a dot per seed."""

    def typical(arm: str) -> float:
        return pd.concat([data.cell(task, arm).peak for task in tasks]).fillna(np.inf).median()

    names = sorted((arm for arm in ["clip", *names] if arm in data.arms), key=typical)
    figure, axes = panels(tasks, "", "largest KL(old ‖ new) of a run")
    for task, axis in axes.items():
        for i, arm in enumerate(names):
            cell, color = data.cell(task, arm), "#D55E00" if arm == "clip" else "black"
            axis.semilogx(cell.peak, [i] * len(cell), "o", color=color, ms=4, alpha=0.7)
            if broken := (cell.failed != "").sum():
                where = {"transform": axis.get_yaxis_transform(), "va": "center"}
                axis.text(0.02, i, f"{broken} of {len(cell)} broke", **where)
        axis.set_xlim(np.array(axis.get_xlim()) * [0.25, 4])  # below a decade, labels overlap
        axis.set_yticks(range(len(names)), [arms.parse(arm).label for arm in names])
        axis.set_ylim(-0.5, len(names) - 0.5)
        axis.grid(axis="y", alpha=0.3)
    figure.set_figheight(3.6)
    save(figure, file)


def draw(data, paper: pd.DataFrame, folder: Path) -> None:
    """Write the figures that there are runs for; `data` is the report's."""
    kinds = {"return": ("learning_curves", "return"), "kl": ("kl", "KL(old ‖ new)")}
    shown = [arm for arm in COLORS if arm in data.arms]
    tasks = [task for task in data.tasks if any(len(data.curve(task, arm)) for arm in shown)]
    for column, (name, ylabel) in kinds.items() if tasks else ():
        figure, axes = panels(tasks, ylabel)
        for task, axis in axes.items():
            for arm in shown:
                lines(axis, data.curve(task, arm), column, arms.parse(arm).label, COLORS[arm])
            for arm, points in paper[paper.env_id == task].groupby("arm"):
                if column == "return" and arm in PAPER_DASHES:
                    style = {"color": "0.6", "lw": 1, "ls": PAPER_DASHES[arm]}
                    label = f"the paper's {arms.parse(arm).label}"
                    axis.plot(points.step, points["mean"], label=label, **style)
            if column == "kl":
                axis.set_yscale("log")
                axis.axhline(0.02, color="0.6", lw=1, label="target of adaptive β")
        save(figure, folder / f"{name}.png")
    clipped = [task for task in data.tasks if len(data.curve(task, "clip"))]
    if clipped:
        figure, axes = panels(clipped, "fraction of samples")
        for task, axis in axes.items():
            lines(axis, data.curve(task, "clip"), "kill", "kill", "#0072B2")
            lines(axis, data.curve(task, "clip"), "pass", "pass", "#E69F00")
        save(figure, folder / "partition.png")
