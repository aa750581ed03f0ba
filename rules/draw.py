"""Draw rules.png: how strongly every rule lets a sample push, over its ratio w.

    python rules/draw.py [FOLDER]

A curve is the coefficient c of grad log pi, taken by autograd from ppo_loss of the composed script.
"""

import math
from argparse import ArgumentParser
from pathlib import Path
from types import ModuleType, SimpleNamespace

import matplotlib
import numpy as np
import torch
from insert import RULES, SCRIPT, block, compose, names

EPSILON = 0.2
GOOD = "#0072B2"  # A > 0
BAD = "#C44E00"  # A < 0
CLIP = {"color": "#c9c9c9", "lw": 7, "solid_capstyle": "butt", "zorder": 1}
LONGER = {"dual_clip": 4}  # rules that need more of the axis than 0 to 2
# rules that depend on more than w and the sign of A: |A| and KL of the dashed curve, and its name
DASHED = {"dpo": (3.0, 1.0, "dashed: |A| = 3"), "dppo": (1.0, 0.0, "dashed: KL ≤ ε²/2")}
SYMBOLS = {
    "beta": "β",
    "epsilon": "ε",
    "alpha": "α",
    "tau": "τ",
    "sigmoid": "σ",
    "-": "−",
    "^2": "²",
}


def load(text: str) -> ModuleType:
    """A script as a module."""
    module = ModuleType("rule")
    module.__file__ = "rule.py"
    exec(compile(text, "rule.py", "exec"), vars(module))  # noqa: S102 (our own scripts)
    return module


def sample_loss(
    script: ModuleType,
    epsilon: float,
    logprob: torch.Tensor,
    old_logprob: torch.Tensor,
    advantage: torch.Tensor,
    kl: float = 1.0,
) -> tuple[torch.Tensor, dict]:
    """ppo_loss of samples of which no more is known than this, all [N].

    kl is how far the policy has moved in their states, for the rules that ask.
    """
    zeros = torch.zeros_like(advantage)
    old_mean = zeros.unsqueeze(-1)
    agent = SimpleNamespace(
        actor_mean=lambda obs: old_mean + (2 * kl) ** 0.5,
        actor_logstd=torch.zeros(1, dtype=zeros.dtype),
        logprob=lambda mean, actions: logprob,
        get_value=lambda obs: zeros,
        entropy=lambda: torch.zeros((), dtype=zeros.dtype),
    )
    batch = script.Batch(
        obs=zeros,
        actions=zeros,
        old_logprob=old_logprob,
        old_mean=old_mean,
        old_logstd=torch.zeros_like(old_mean),
        old_value=zeros,
        advantages=advantage,
        returns=zeros,
    )
    return script.ppo_loss(agent, script.Args(clip_coef=epsilon), batch)


def coefficient(
    script: ModuleType, ratio: np.ndarray, advantage: np.ndarray, epsilon: float, kl: float = 1.0
) -> np.ndarray:
    """c = d objective / d log pi of samples with these ratios and advantages, all [N]."""
    logprob = torch.tensor(ratio).float().log().requires_grad_()
    advantage = torch.tensor(advantage).float()
    loss, _ = sample_loss(script, epsilon, logprob, torch.zeros_like(logprob), advantage, kl)
    (grad,) = torch.autograd.grad(loss, logprob)
    return -len(ratio) * grad.numpy()  # the loss is a mean


def curve(script: ModuleType, ratio: np.ndarray, advantage: float, kl: float = 1.0) -> np.ndarray:
    """c / |A| over w, with gaps where it jumps."""
    c = coefficient(script, ratio, np.full_like(ratio, advantage), EPSILON, kl) / abs(advantage)
    jumps = np.abs(np.diff(c, prepend=c[0])) > 0.1
    return np.where(jumps, np.nan, c)


def describe(name: str) -> tuple[str, str, str]:
    """Title, formula and source of a rule: the first line of its block, NAME: FORMULA; SOURCE."""
    line = block(name).splitlines()[0].removeprefix("# ")
    title, _, rest = line.partition(": ")
    formula, _, source = rest.partition("; ")
    for word, symbol in SYMBOLS.items():
        formula = formula.replace(word, symbol)
    return title, formula, source


def draw_panel(axis, script: ModuleType, clip: ModuleType, length: float) -> None:
    """A rule, and the clip in grey behind it, for w from 0 to length."""
    ratio = np.linspace(0.001, length, 2000)
    for advantage, color in ((1.0, GOOD), (-1.0, BAD)):
        axis.plot(ratio, curve(clip, ratio, advantage), **CLIP)
        axis.plot(ratio, curve(script, ratio, advantage), color=color, lw=2.6, zorder=3)
    axis.axvspan(1 - EPSILON, 1 + EPSILON, color="#f1f1f1", lw=0, zorder=0)
    axis.axhline(0, color="0.5", lw=0.8, zorder=0)
    axis.set_xlim(0, length)
    axis.set_ylim(-length, length)
    axis.set_xticks([0, length // 2, length])
    axis.set_yticks([-length, 0, length])
    axis.tick_params(labelsize=12)
    axis.spines[["top", "right"]].set_visible(False)


def draw_dashed(axis, name: str, script: ModuleType) -> None:
    """The second pair of curves of a rule that has one."""
    size, kl, note = DASHED[name]
    ratio = np.linspace(0.001, 2, 2000)
    for advantage, color in ((size, GOOD), (-size, BAD)):
        axis.plot(ratio, curve(script, ratio, advantage, kl), color=color, lw=1.8, ls="--")
    axis.text(0.03, 0.04, note, transform=axis.transAxes, fontsize=12)


def write_head(axis, title: str, formula: str, source: str) -> None:
    """Three lines over a panel."""
    lines = (
        (title, 41, {"fontsize": 16, "fontweight": "bold"}),
        (formula, 23, {"fontsize": 11}),
        (source, 6, {"fontsize": 11, "color": "0.4"}),
    )
    for text, height, style in lines:
        axis.annotate(text, (0, 1), (0, height), "axes fraction", "offset points", **style)


def draw() -> "matplotlib.figure.Figure":
    """The clip, with the words one needs, then a panel per rule."""
    from matplotlib import pyplot as plt

    columns = 5
    rows = math.ceil((1 + len(names())) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(20, 3.4 * rows))
    clip = load(SCRIPT.read_text())
    first = axes.flat[0]
    draw_panel(first, clip, clip, 2)
    write_head(
        first, "PPO-Clip", "β = −w A on the kill set, else 0", "Schulman et al., arXiv 1707.06347"
    )
    for text, x, y, color in (
        ("A > 0", 0.1, 0.75, GOOD),
        ("kill", 1.5, 0.15, GOOD),
        ("A < 0", 1.5, -1.1, BAD),
        ("kill", 0.3, -0.45, BAD),
    ):
        first.text(x, y, text, color=color, fontsize=14, fontweight="bold")
    for name, axis in zip(names(), axes.flat[1:], strict=False):
        script = load(compose(name))
        draw_panel(axis, script, clip, LONGER.get(name, 2))
        write_head(axis, *describe(name))
        if name in DASHED:
            draw_dashed(axis, name, script)
    for axis in axes.flat[1 + len(names()) :]:
        axis.set_visible(False)
    figure.subplots_adjust(0.055, 0.085, 0.98, 0.855, wspace=0.17, hspace=0.62)
    figure.suptitle("Every clipping rule is a β", fontsize=22, fontweight="bold")
    figure.supxlabel(
        r"ratio $w = \pi_{new}(a|s)\ /\ \pi_{old}(a|s)$;   shaded: $|w - 1| \leq ε = 0.2$;   "
        "grey: PPO-Clip",
        fontsize=16,
    )
    figure.supylabel("w A + β, the coefficient of ∇log π, for |A| = 1", fontsize=16, x=0.008)
    return figure


def output_folder(description: str, default: Path) -> Path:
    """The folder named on the command line, made if need be; exits if it cannot be."""
    parser = ArgumentParser(description=description)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, default=default)
    folder = parser.parse_args().folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.exit(2, f"{parser.prog}: error: cannot make {folder}: {error.strerror}\n")
    return folder


if __name__ == "__main__":
    matplotlib.use("Agg")
    folder = output_folder("Draw rules.png into FOLDER.", RULES)
    draw().savefig(folder / "rules.png", dpi=120)
