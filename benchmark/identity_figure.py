"""Draw the identity: what each of the scripts' policy losses does to one sample.

    python benchmark/identity_figure.py    # writes benchmark/results/identity.png and .svg

Every curve comes from ppo_loss as it stands in a script, called on one sample at a time. The
sample is concrete, because the KL has no value otherwise: a one-dimensional Gaussian of standard
deviation 1, old mean 0, action 1.5, and the new mean where the ratio is w.
"""

import sys
from pathlib import Path
from types import ModuleType

import matplotlib
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import ppo_clip_continuous as clip
import ppo_kl_scalar_continuous as kl_scalar
import ppo_klip_continuous as klip
import ppo_phi_continuous as phi

ACTION = 1.5  # the largest ratio it can have is exp(1.5**2 / 2) = 3.08
BAND = 0.8, 1.2
# label, script, its beta if it has one, line style; thick to thin, so that all three forms show
LINES = (
    ("w A, nothing clipped", kl_scalar, 0.0, {"color": "#8c8c8c", "lw": 1.6}),
    ("scalar KL, β = 1", kl_scalar, 1.0, {"color": "#009E73", "lw": 1.8}),
    ("min (PPO-Clip)", clip, None, {"color": "#56B4E9", "lw": 7, "solid_capstyle": "butt"}),
    ("Φ", phi, None, {"color": "#D55E00", "lw": 3.2, "ls": (0, (4, 2))}),
    (r"$β_t$ log π (KLip)", klip, None, {"color": "#000000", "lw": 1.8, "ls": (0, (1, 1.4))}),
)


def curve(
    script: ModuleType, advantage: float, ratios: np.ndarray, beta: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The per-sample objective, and the coefficient c of its gradient c * grad log pi, both like
    ratios [K]. beta replaces --kl-coef in the script that has it."""
    args = script.Args(vf_coef=0.0) if beta is None else script.Args(vf_coef=0.0, kl_coef=beta)
    agent = script.Agent(1, 1)
    agent.actor_mean = torch.nn.Identity()  # the observation is the policy's mean
    action, zero, one = torch.tensor([[ACTION]]), torch.zeros(1, 1), torch.zeros(1)
    old_logprob = agent.logprob(zero, action).detach()
    objectives, coefficients = [], []
    for mean in ACTION - np.sqrt(ACTION**2 - 2 * np.log(ratios)):
        obs = torch.tensor([[mean]], dtype=torch.float32, requires_grad=True)
        old = old_logprob, zero, zero, one  # log-probability, mean, log std, value
        loss, logged = script.ppo_loss(agent, args, obs, action, *old, one + advantage, one)
        (grad,) = torch.autograd.grad(loss, obs)
        (score,) = torch.autograd.grad(agent.logprob(obs, action).sum(), obs)
        objectives.append(-logged[0].item())
        coefficients.append((-grad / score).item())
    return np.array(objectives), np.array(coefficients)


def draw() -> "matplotlib.figure.Figure":
    """Two rows (objective, coefficient) by two columns (A = 1, A = -1)."""
    from matplotlib import pyplot as plt

    low, high = BAND
    pieces = ((0.01, low - 1e-3), (low + 1e-3, high - 1e-3), (high + 1e-3, 2.5))
    ratios = [np.linspace(*ends, 80) for ends in pieces]  # lines must not bridge the jumps
    figure, axes = plt.subplots(2, 2, figsize=(9, 7), sharex=True)
    for column, advantage in enumerate((1.0, -1.0)):
        for label, script, beta, style in LINES:
            for i, piece in enumerate(ratios):
                for row, y in enumerate(curve(script, advantage, piece, beta)):
                    name = label if i == 0 else None
                    axes[row, column].plot(piece, y, label=name, dash_capstyle="butt", **style)
        for ax in axes[:, column]:
            left, right = (high, 2.5) if advantage > 0 else (0, low)
            ax.axvspan(left, right, color="#CC79A7", alpha=0.22, lw=0)
            for edge in BAND:
                ax.axvline(edge, color="#b0b0b0", lw=0.8, zorder=0)
            names = ("pass", "in", "kill") if advantage > 0 else ("kill", "in", "pass")
            for x, name in zip((low / 2, 1, (high + 2.5) / 2), names):
                ax.annotate(
                    name, (x, 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=11
                )
            ax.set_xlim(0, 2.5)
            ax.spines[["top", "right"]].set_visible(False)
        sign = "A > 0 (drawn: A = 1)" if advantage > 0 else "A < 0 (drawn: A = −1)"
        axes[0, column].set_title(sign, pad=22, fontsize=13)
        axes[1, column].set_xlabel("importance ratio w", fontsize=12)
    axes[0, 0].set_ylabel("objective of one sample", fontsize=12)
    axes[1, 0].set_ylabel("coefficient of ∇log π", fontsize=12)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    order = (2, 3, 4, 0, 1)
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
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
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "identity"  # the same file each time it is drawn
    picture = draw()  # on a white card, which is legible on a dark page too
    (HERE / "results").mkdir(exist_ok=True)
    picture.savefig(HERE / "results/identity.png", dpi=150)
    picture.savefig(HERE / "results/identity.svg", metadata={"Date": None})
    print(f"{HERE / 'results'}/identity.png and .svg")
