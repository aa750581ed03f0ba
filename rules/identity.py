"""Draw the identity: what each of the scripts' policy losses does to one sample.

    python rules/identity.py    # writes rules/identity.png

Every curve comes from ppo_loss as it stands in a script, called on one sample at a time. The
sample is concrete, because the KL has no value otherwise: a one-dimensional Gaussian of standard
deviation 1, old mean 0, action 1.5, and the new mean where the ratio is w.
"""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

import ppo_clip_continuous as clip
import ppo_kl_scalar_continuous as kl_scalar
import ppo_klip_continuous as klip
import ppo_phi_continuous as phi

ACTION = 1.5  # the largest ratio it can have is exp(1.5**2 / 2) = 3.08
LOW = 0.8
HIGH = 1.2
END = 2.5
# label, script, its beta if it has one, line style; thick to thin, so that all three forms show
LINES = (
    ("w A, no clip", kl_scalar, 0.0, {"color": "#8c8c8c", "lw": 1.6}),
    ("scalar KL, β = 1", kl_scalar, 1.0, {"color": "#009E73", "lw": 1.8}),
    ("min (PPO-Clip)", clip, None, {"color": "#56B4E9", "lw": 7, "solid_capstyle": "butt"}),
    ("Φ", phi, None, {"color": "#D55E00", "lw": 3.2, "ls": (0, (4, 2))}),
    (r"w A + $β_t$ log π", klip, None, {"color": "#000000", "lw": 1.8, "ls": (0, (1, 1.4))}),
)
IN_LEGEND = (2, 3, 4, 0, 1)


def one_sample(
    script: ModuleType, agent: torch.nn.Module, args, mean: float, advantage: float
) -> tuple[float, float]:
    """Objective of the sample, and the coefficient c of its gradient c * grad log pi."""
    obs = torch.tensor([[mean]], dtype=torch.float32, requires_grad=True)
    action = torch.tensor([[ACTION]])
    old_mean = torch.zeros(1, 1)
    batch = script.Batch(
        obs=obs,
        actions=action,
        old_logprob=agent.logprob(old_mean, action).detach(),
        old_mean=old_mean,
        old_logstd=torch.zeros(1, 1),
        old_value=torch.zeros(1),
        advantages=torch.tensor([advantage]),
        returns=torch.zeros(1),
    )
    loss, metrics = script.ppo_loss(agent, args, batch)
    (grad,) = torch.autograd.grad(loss, obs)
    (score,) = torch.autograd.grad(agent.logprob(obs, action).sum(), obs)
    return -metrics["losses/policy_loss"].item(), (-grad / score).item()


def curve(
    script: ModuleType, advantage: float, ratios: np.ndarray, beta: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Objective and coefficient of one sample, both like ratios [K]. beta replaces --kl-coef in the
    script that has it."""
    args = script.Args(vf_coef=0.0)
    if beta is not None:
        args.kl_coef = beta
    agent = script.Agent(1, 1)
    agent.actor_mean = torch.nn.Identity()  # the observation is the policy's mean
    means = ACTION - np.sqrt(ACTION**2 - 2 * np.log(ratios))
    points = [one_sample(script, agent, args, mean, advantage) for mean in means]
    objectives, coefficients = np.array(points).T
    return objectives, coefficients


def name_sets(upper: Axes, lower: Axes, advantage: float) -> None:
    """Say where a sample is in, killed or passed, and shade the kill set."""
    names = ("pass", "in", "kill") if advantage > 0 else ("kill", "in", "pass")
    middles = (LOW / 2, 1, (HIGH + END) / 2)
    for axis in (upper, lower):
        left, right = (HIGH, END) if advantage > 0 else (0, LOW)
        axis.axvspan(left, right, color="#CC79A7", alpha=0.22, lw=0)
        axis.axvline(LOW, color="#b0b0b0", lw=0.8, zorder=0)
        axis.axvline(HIGH, color="#b0b0b0", lw=0.8, zorder=0)
        axis.set_xlim(0, END)
        axis.spines[["top", "right"]].set_visible(False)
        for x, name in zip(middles, names):
            place = ("data", "axes fraction")
            axis.annotate(name, (x, 1.02), xycoords=place, ha="center", fontsize=11)
    lower.set_xlabel("importance ratio w", fontsize=12)


def draw() -> Figure:
    """Two rows (objective, coefficient) by two columns (A = 1, A = -1)."""
    pieces = (
        np.linspace(0.01, LOW - 1e-3, 80),  # lines must not bridge the jumps
        np.linspace(LOW + 1e-3, HIGH - 1e-3, 80),
        np.linspace(HIGH + 1e-3, END, 80),
    )
    figure = Figure(figsize=(9, 7))
    axes = figure.subplots(2, 2, sharex=True)
    for (upper, lower), advantage in zip(axes.T, (1.0, -1.0)):
        for _, script, beta, style in LINES:
            for ratios in pieces:
                objectives, coefficients = curve(script, advantage, ratios, beta)
                upper.plot(ratios, objectives, dash_capstyle="butt", **style)
                lower.plot(ratios, coefficients, dash_capstyle="butt", **style)
        name_sets(upper, lower, advantage)
    axes[0, 0].set_title("A > 0 (drawn: A = 1)", pad=22, fontsize=13)
    axes[0, 1].set_title("A < 0 (drawn: A = −1)", pad=22, fontsize=13)
    axes[0, 0].set_ylabel("objective of one sample", fontsize=12)
    axes[1, 0].set_ylabel("coefficient of ∇log π", fontsize=12)
    lines = axes[0, 0].get_lines()[:: len(pieces)]
    figure.legend(
        [lines[i] for i in IN_LEGEND],
        [LINES[i][0] for i in IN_LEGEND],
        loc="lower center",
        ncols=5,
        frameon=False,
        handlelength=2.6,
        columnspacing=1.4,
        fontsize=11,
    )
    figure.tight_layout(rect=(0, 0.045, 1, 1))
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # faster for tensors this small
    draw().savefig(HERE / "identity.png", dpi=150)  # on white, legible on a dark page too
    print(f"{HERE}/identity.png")
