"""The figures of the report. White behind them, so that they can be read on a dark page."""

import io
import math

import arms
import collect
import matplotlib
import numpy as np
from choose import typical
from collect import Results
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator
from scipy.stats import gmean

matplotlib.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "savefig.facecolor": "white",
        "savefig.dpi": 140,
        "svg.hashsalt": "klip",  # the same file each time it is drawn
    }
)
# Colours of Okabe and Ito (2008). The three forms coincide: thick to thin, so that each shows.
LINES = {
    "clip": {"color": "#56B4E9", "lw": 5.0},
    "phi": {"color": "#D55E00", "lw": 2.4, "ls": (0, (3, 3))},
    "klip": {"color": "#000000", "lw": 1.2, "ls": (0, (1, 2))},
    "kl_fixed": {"color": "#009E73", "lw": 1.6},
    "kl_adaptive": {"color": "#CC79A7", "lw": 1.6},
}
GREY = {"color": "0.6", "lw": 1.0, "zorder": 1}
DOT = {"marker": "o", "ls": "", "ms": 5, "mew": 0, "alpha": 0.65}
PAPER_DASHES = {
    "clip": "-",
    "kl_fixed": (0, (4, 2)),
    "kl_adaptive": (0, (1, 1)),
}
SETS = {
    "kill": {"color": "#0072B2", "lw": 1.8},
    "pass": {"color": "#E69F00", "lw": 1.8},
}


def to_bytes(figure: Figure, suffix: str) -> bytes:
    """A figure as a file, the same bytes each time."""
    file = io.BytesIO()
    metadata = {"Date": None} if suffix == "svg" else {}
    figure.savefig(file, format=suffix, metadata=metadata)
    return file.getvalue()


def label(arm: str) -> str:
    """An arm's name."""
    return arms.parse(arm).label.replace("β_t", r"$\beta_t$")


def family(base: str) -> str:
    """What the arms called `base` have in common: "fixed β", "PPO-Clip, ε"."""
    return arms.family(base).label_of_value.format("").rstrip(" =")


def color(arm: str) -> str:
    """An arm's colour: that of its name, blue for shapes."""
    return LINES.get(arms.parse(arm).base, {"color": "#0072B2"})["color"]


# ---- curves over training


def task_panels(envs: list[str]) -> tuple[Figure, list[Axes]]:
    """An axis per task, over environment steps, and one more for the legend."""
    columns = min(3, len(envs) + 1)
    rows = math.ceil((len(envs) + 1) / columns)
    figure = Figure(figsize=(3.3 * columns, 2.5 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, env_id in zip(axes, envs):
        axis.set_title(env_id)
        over_steps(axis)
    for axis in axes[len(envs) :]:
        axis.axis("off")
    return figure, axes[: len(envs) + 1]


def over_steps(axis: Axes) -> None:
    """Make the x axis one of environment steps."""
    axis.set_xlabel("environment steps")
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def logarithmic(axis: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")


def draw_seeds(axis: Axes, results: Results, env_id: str, arm: str, column: str, **style) -> None:
    """A thin line per seed, and the mean over seeds in `style`."""
    curves = results.curves(env_id, arm, column)
    if not len(curves):
        return
    steps = results.cell(env_id, arm)[0].curve["step"]
    if arm not in ("phi", "klip"):  # whose thin lines would hide the clip's
        for curve in curves:
            known = ~np.isnan(curve)
            axis.plot(steps[known], curve[known], color=style["color"], lw=0.6, alpha=0.5)
    mean = curves.mean(0)
    known = ~np.isnan(mean)  # an episode ended in every seed
    axis.plot(steps[known], mean[known], **style)


def arm_curves(results: Results, column: str) -> tuple[Figure, list[Axes], list[Line2D]]:
    """One column of the curves: a panel per task, a line per arm."""
    figure, axes = task_panels(results.envs)
    for axis, env_id in zip(axes, results.envs):
        for arm in results.arms:
            draw_seeds(axis, results, env_id, arm, column, **LINES[arm])
    handles = [entry(label(arm), **LINES[arm]) for arm in results.arms]
    handles.append(entry("thin: each seed", color="0.3", lw=0.6))
    return figure, axes, handles


def entry(text: str, **style) -> Line2D:
    """A line of a legend."""
    return Line2D([], [], label=text, **style)


def add_legend(axis: Axes, handles: list[Line2D]) -> None:
    """Turn an axis into a legend."""
    axis.legend(handles=handles, loc="center left", handlelength=3.4, frameon=False)


def learning_curves(results: Results, paper: list[dict[str, str]]) -> Figure:
    """Return over training, with the points of the paper's curves."""
    figure, axes, handles = arm_curves(results, "return")
    last = max(run.curve["step"][-1] for run in results.runs)
    points = [point for point in paper if int(point["step"]) <= last]
    for axis, env_id in zip(axes, results.envs):
        axis.set_ylabel("return")
        for arm, dashes in PAPER_DASHES.items():
            theirs = [p for p in points if p["env_id"] == env_id and p["arm"] == arm]
            steps = [int(point["step"]) for point in theirs]
            means = [float(point["mean"]) for point in theirs]
            axis.plot(steps, means, ls=dashes, **GREY)
    for arm, dashes in PAPER_DASHES.items():
        handles.append(entry(f"the paper's {label(arm)}", ls=dashes, **GREY))
    add_legend(axes[-1], handles)
    return figure


def kl(results: Results) -> Figure:
    """KL over training."""
    figure, axes, handles = arm_curves(results, "kl")
    for axis in axes[:-1]:
        axis.set_yscale("log")
        axis.set_ylabel("KL(old ‖ new)")
        axis.axhline(0.02, **GREY)
    add_legend(axes[-1], [*handles, entry("target of adaptive β", **GREY)])
    return figure


def partition(results: Results, paper: dict[str, float]) -> Figure:
    """Kill and pass fraction of the clip over training; `paper` is the paper's mean kill by task."""
    figure, axes = task_panels(results.envs)
    for axis, env_id in zip(axes, results.envs):
        for name, style in SETS.items():
            draw_seeds(axis, results, env_id, "clip", name, **style)
        if env_id in paper:
            axis.axhline(paper[env_id], **GREY)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("fraction of samples")
    handles = [entry(f"{name}, PPO-Clip", **style) for name, style in SETS.items()]
    handles.append(entry("kill, the paper's mean", **GREY))
    add_legend(axes[-1], handles)
    return figure


# ---- dots: one for each seed


def dots(results: Results) -> Figure:
    """Final returns: a panel per task, a row per arm, a dot per seed, a bar at their mean."""
    envs = results.envs
    names = results.arms[::-1]
    size = (1.5 + 1.8 * len(envs), 0.9 + 0.28 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(envs), sharey=True, squeeze=False)[0]
    for axis, env_id in zip(axes, envs):
        for row, arm in enumerate(names):
            x = results.values(env_id, arm)
            if len(x):
                axis.plot(x, [row] * len(x), color=color(arm), **DOT)
                axis.plot(x.mean(), row, "|", color="black", ms=13, mew=1.6)
                if arm == "clip":
                    axis.axvline(x.mean(), ls=(0, (2, 2)), **GREY)
        axis.set_title(env_id)
        axis.set_xlabel("final return")
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.margins(x=0.08)
        axis.grid(axis="y", color="0.92")
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(names)), [label(arm) for arm in names])
    axes[0].set_ylim(-0.6, len(names) - 0.4)
    return figure


# ---- shapes

OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00")
MOST_KL = 100.0  # where all that is above is drawn


def over_kl(results: Results) -> Figure:
    """Final return over the KL reached: a panel per task, a dot per run, all arms in each."""
    styles = {"clip": {"color": "black", "marker": "*", "ms": 9}}
    for i, arm in enumerate(arm for arm in results.arms if arm != "clip"):
        marker = "osD^"[i // len(OKABE_ITO) % 4]
        styles[arm] = {"color": OKABE_ITO[i % len(OKABE_ITO)], "marker": marker, "ms": 6}
    figure, axes = task_panels(results.envs)
    for axis, env_id in zip(axes, results.envs):
        for arm in results.arms:
            runs = results.cell(env_id, arm)
            kl = [min(run.median_kl, MOST_KL) for run in runs]
            returns = [run.episodic_return for run in runs]
            axis.plot(kl, returns, ls="", mew=0, alpha=0.8, **styles[arm])
        axis.set_xscale("log")
        axis.set_xlabel(f"KL reached, at most {MOST_KL:g}")
        axis.set_ylabel("final return")
        axis.grid(color="0.92")
    handles = [entry(label(arm), ls="", **styles[arm]) for arm in results.arms]
    axes[-1].legend(handles=handles, loc="center left", ncols=2, frameon=False)
    return figure


# ---- the sweep


def over_setting(axis: Axes, results: Results, env_id: str, base: str, name: str) -> None:
    """The number called `name` of every run of the arms called `base`, over their setting; grey: of
    the default clip, on average."""
    means = {}
    for arm in results.arms:
        runs = results.cell(env_id, arm)
        if arms.parse(arm).base == base and runs:
            y = [getattr(run, name) for run in runs]
            x = arms.parse(arm).value
            axis.plot([x] * len(y), y, color=color(base), **DOT)
            means[x] = np.mean(y)
    axis.plot(means.keys(), means.values(), color=color(base), lw=1.2)
    axis.set_xscale("log")
    axis.set_xticks(list(means), [f"{x:g}" for x in means])
    axis.tick_params(axis="x", which="minor", length=0, labelbottom=False)
    clip = results.cell(env_id, "clip")
    if clip:
        axis.axhline(np.mean([getattr(run, name) for run in clip]), **GREY)


def sweep(tuning: Results, swept: dict[str, dict[str, int]]) -> Figure:
    """Return, KL and length of episodes over the setting: three rows per task, a column per arm."""
    tasks = set().union(*swept.values())
    envs = [env_id for env_id in tuning.envs if env_id in tasks]
    figure = Figure(
        figsize=(1.2 + 2.7 * len(swept), 0.6 + 4.2 * len(envs)),
        layout="constrained",
    )
    axes = figure.subplots(
        3 * len(envs),
        len(swept),
        sharex="col",
        sharey="row",
        squeeze=False,
        height_ratios=[3, 2, 2] * len(envs),
    )
    for column, base in zip(axes.T, swept):
        column[0].set_title(family(base))
        for i, env_id in enumerate(envs):
            over_setting(column[3 * i], tuning, env_id, base, "episodic_return")
            over_setting(column[3 * i + 1], tuning, env_id, base, "median_kl")
            over_setting(column[3 * i + 2], tuning, env_id, base, "median_length")
            logarithmic(column[3 * i + 1])
            logarithmic(column[3 * i + 2])
    for i, env_id in enumerate(envs):
        axes[3 * i, 0].set_ylabel(f"{env_id}\nfinal return")
        axes[3 * i + 1, 0].set_ylabel("KL")
        axes[3 * i + 2, 0].set_ylabel("steps per\nepisode")
    grey = entry("mean of PPO-Clip at ε = 0.2", **GREY)
    figure.legend(handles=[grey], loc="outside lower center", frameon=False)
    return figure


# ---- why


def drawable(curves: np.ndarray) -> np.ndarray:
    """Positive numbers that a logarithmic axis can show: an exp may have become 0 or infinite."""
    return np.clip(curves, 1e-30, 1e30)


def ratio_quantiles(axis: Axes, results: Results, env_id: str, arm: str) -> None:
    """Quantiles of w over training: bands of their mean over runs, thin lines for each run."""
    steps = results.cell(env_id, arm)[0].curve["step"]
    means = {}
    for quantile in collect.QUANTILES:
        curves = drawable(results.curves(env_id, arm, quantile))
        means[quantile] = gmean(curves)
        for curve in curves:
            axis.plot(steps, curve, color=color(arm), lw=0.4, alpha=0.6)
    band = {"color": color(arm), "lw": 0}
    axis.fill_between(steps, means["q01"], means["q99"], alpha=0.25, **band)
    axis.fill_between(steps, means["q10"], means["q90"], alpha=0.5, **band)
    axis.plot(steps, means["q50"], color="black", lw=1)
    for edge in (0.8, 1.2):
        axis.axhline(edge, color="0.3", lw=0.6, ls=(0, (4, 2)))


def kl_and_estimate(axis: Axes, results: Results, env_id: str, names: list[str]) -> None:
    """The mean KL, and what the samples of w say of it, over training."""
    for arm in names:
        steps = results.cell(env_id, arm)[0].curve["step"]
        for column, dashes in (("kl", "-"), ("approx_kl", (0, (2, 1.5)))):
            curves = drawable(results.curves(env_id, arm, column))
            axis.plot(steps, gmean(curves), color=color(arm), ls=dashes, lw=1.4)


def episode_lengths(axis: Axes, results: Results, env_id: str, names: list[str]) -> None:
    """Steps per episode over training: the geometric mean over runs, whose axis is logarithmic."""
    for arm in names:
        steps = results.cell(env_id, arm)[0].curve["step"]
        lengths = results.curves(env_id, arm, "length")
        axis.plot(steps, gmean(drawable(lengths)), color=color(arm), lw=1.4)


def why(results: Results, panels: dict[str, list[str]]) -> Figure:
    """Ratios of the clip and of scalar baselines at about its mean KL: a row per task."""
    columns = 2 + max(map(len, panels.values()))
    figure = Figure(
        figsize=(1.0 + 2.7 * columns, 0.9 + 2.5 * len(panels)),
        layout="constrained",
    )
    axes = figure.subplots(len(panels), columns, squeeze=False)
    for row, (env_id, names) in zip(axes, panels.items()):
        for axis in row[1 : len(names)]:
            axis.sharey(row[0])
        for axis in row:
            over_steps(axis)
            logarithmic(axis)
        for axis, arm in zip(row, names):
            ratio_quantiles(axis, results, env_id, arm)
            reached = typical([run.median_kl for run in results.cell(env_id, arm)])
            axis.set_title(f"{label(arm)}: KL {reached:.2g}")
        for axis in row[len(names) : -2]:
            axis.axis("off")
        row[0].set_ylabel(f"{env_id}\nratio w")
        row[-2].set_title("KL of the same arms")
        kl_and_estimate(row[-2], results, env_id, names)
        row[-1].set_title("their steps per episode")
        episode_lengths(row[-1], results, env_id, names)
    handles = [
        entry("median of w", color="black", lw=1),
        entry("10 to 90 %", color="0.5", lw=6),
        entry("1 to 99 %", color="0.75", lw=6),
        entry("1 ± 0.2", color="0.3", lw=0.6, ls=(0, (4, 2))),
        entry("KL, closed form", color="0.3", lw=1.4),
        entry("mean of w − 1 − log w", color="0.3", lw=1.4, ls=(0, (2, 1.5))),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
    return figure


def medians(curve: np.ndarray) -> list[float]:
    """The medians of twenty parts of a curve; NaN where no episode ended in a part."""
    parts = np.array_split(curve, min(20, len(curve)))
    known = [part[~np.isnan(part)] for part in parts]
    return [np.median(part) if len(part) else np.nan for part in known]


def episode_over_entropy(results: Results) -> Figure:
    """Steps per episode over the policy's entropy, which falls from left to right: a line per run,
    of medians over twentieths of it; a row per task, a column per kind of loss."""
    kinds = {
        "rules on each sample's ratio": lambda arm: arm.base == "clip" or arm.is_shape,
        "fixed β": lambda arm: arm.base == "kl_fixed",
        "adaptive β": lambda arm: arm.base == "kl_adaptive",
    }
    size = (1.0 + 3.2 * len(kinds), 0.8 + 2.4 * len(results.envs))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(results.envs), len(kinds), sharex="row", sharey="row", squeeze=False)
    for row, env_id in zip(axes, results.envs):
        for axis, (title, is_kind) in zip(row, kinds.items()):
            for run in results.runs:
                if run.env_id == env_id and is_kind(arms.parse(run.arm)):
                    x = medians(run.curve["entropy"])
                    y = medians(run.curve["length"])
                    axis.plot(x, y, color=color(run.arm), lw=0.8, alpha=0.7)
            logarithmic(axis)
            axis.set_title(title)
            axis.set_xlabel("entropy of the policy")
            axis.grid(color="0.92")
        row[0].invert_xaxis()
        row[0].set_ylabel(f"{env_id}\nsteps per episode")
    return figure
