"""Record what the page replays: one real update under several losses, and four checks.

    python page/record.py    # a minute and a half

Writes page/replay.json and page/hashes.json. Run it again when the scripts have changed.
"""

import argparse
import base64
import copy
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

PAGE = Path(__file__).resolve().parent
ROOT = PAGE.parent
sys.path += [str(ROOT / folder) for folder in (".", "rules", "tools")]

import ppo_klip_continuous  # noqa: F401, I001, first: it has NumPy and PyTorch round alike everywhere
import numpy as np
import torch

import insert
from draw import load

SCRIPTS = ("clip", "phi", "klip", "kl_scalar")
NO_CLIP = "epsilon_infinity"  # the exercise whose loss is the plain surrogate w A
ENV_ID = "Walker2d-v4"
ITERATION = 40
NUM_DRAWN = 600  # samples of the rollout that the page draws
LOG_RATIO_RANGE = 2.0  # log w is stored as a byte from -2 to 2; what lies beyond, at the edge
ADVANTAGE_RANGE = 4.0
CHECK = ("--env-id", "Hopper-v4", "--total-timesteps", "20480")


class Update(NamedTuple):
    """An iteration's update as it was before its first step, and all that it was fed."""

    agent: torch.nn.Module
    moments: dict  # of Adam
    minibatches: list
    learning_rates: list[float]


class Recorded(Exception):
    """Ends the training from within."""


def capture(script: ModuleType, iteration: int, **args) -> Update:
    """Train with the script up to the end of this iteration, and keep its update."""
    args = script.Args(env_id=ENV_ID, **args)
    steps_per_update = args.update_epochs * args.num_minibatches
    first = (iteration - 1) * steps_per_update
    kept = {"minibatches": [], "learning_rates": []}
    calls = 0

    class WatchedAdam(script.Adam):
        """Adam, whose moments at the first step are kept."""

        def __init__(self, agent):
            super().__init__(agent)
            kept["optimizer"] = self

        def step(self, grad, lr):
            """One step; the last that is wanted ends the training."""
            if calls > first:
                kept["learning_rates"].append(float(lr))
            super().step(grad, lr)
            if calls == first + steps_per_update:
                raise Recorded

    def watched_gradient(agent, args, batch):
        """compute_gradient, which sees every minibatch."""
        nonlocal calls
        if calls == first:
            kept["agent"] = copy.deepcopy(agent)
            kept["moments"] = moments(kept["optimizer"])
        if calls >= first:
            kept["minibatches"].append(script.Batch(*[x.clone() for x in batch]))
        calls += 1
        return original_gradient(agent, args, batch)

    original_gradient = script.compute_gradient
    original_adam = script.Adam
    script.compute_gradient = watched_gradient
    script.Adam = WatchedAdam
    try:
        with tempfile.TemporaryDirectory() as folder:
            args.run_dir = f"{folder}/run"
            script.train(args)
    except Recorded:
        pass
    finally:
        script.compute_gradient = original_gradient
        script.Adam = original_adam
    del kept["optimizer"]
    return Update(**kept)


def moments(optimizer) -> dict:
    """All that Adam remembers except the weights."""
    return {
        name: copy.deepcopy(value)
        for name, value in vars(optimizer).items()
        if name != "weights" and isinstance(value, torch.Tensor | int | float)
    }


def weights_sha256(agent: torch.nn.Module) -> str:
    """A checksum of the parameters."""
    digest = hashlib.sha256()
    for parameter in agent.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def ratios(agent: torch.nn.Module, rollout) -> np.ndarray:
    """log w of every sample of the rollout."""
    with torch.no_grad():
        logprob = agent.logprob(agent.actor_mean(rollout.obs), rollout.actions)
    return (logprob - rollout.old_logprob).double().numpy()


def replay(script: ModuleType, update: Update, epochs: int) -> tuple[list[np.ndarray], str]:
    """The same update by this script: log w before it and after each epoch, and a checksum."""
    agent = copy.deepcopy(update.agent)
    optimizer = script.Adam(agent)
    for name, value in copy.deepcopy(update.moments).items():
        setattr(optimizer, name, value)
    per_epoch = len(update.minibatches) // epochs
    rollout = whole_rollout(update, epochs)
    log_ratios = [ratios(agent, rollout)]
    for i, (batch, lr) in enumerate(zip(update.minibatches, update.learning_rates, strict=True), 1):
        grad, _ = script.compute_gradient(agent, script.Args(), script.Batch(*batch))
        optimizer.step(grad, lr)
        if i % per_epoch == 0:
            log_ratios.append(ratios(agent, rollout))
    return log_ratios, weights_sha256(agent)


def whole_rollout(update: Update, epochs: int):
    """The minibatches of the first epoch, together."""
    first = update.minibatches[: len(update.minibatches) // epochs]
    return type(first[0])(*[torch.cat(tensors) for tensors in zip(*first, strict=True)])


def in_kill_set(log_ratio: np.ndarray, advantage: np.ndarray, clip_coef: float) -> np.ndarray:
    """Which samples the clip would give no gradient."""
    w = np.exp(log_ratio)
    above = (w > 1 + clip_coef) & (advantage > 0)
    below = (w < 1 - clip_coef) & (advantage < 0)
    return above | below


def to_bytes(values: np.ndarray, reach: float, edges: tuple[float, ...]) -> str:
    """Values from -reach to reach as bytes in base64, none of which crosses an edge."""
    step = 2 * reach / 255
    codes = np.round((values.clip(-reach, reach) + reach) / step)
    for edge in edges:
        decoded = codes * step - reach
        codes += (decoded <= edge) & (values > edge)
        codes -= (decoded > edge) & (values <= edge)
    return base64.b64encode(codes.astype(np.uint8).tobytes()).decode()


def moved_further_out(log_ratios: list[np.ndarray], killed: list[np.ndarray]) -> float:
    """Of the samples in the kill set after an epoch, the share that the next moves further out."""
    before, after, members = (np.stack(x) for x in (log_ratios[:-1], log_ratios[1:], killed[:-1]))
    outwards = np.abs(after) > np.abs(before)
    return float(outwards[members].mean())


def record(iteration: int = ITERATION, num_drawn: int = NUM_DRAWN, **args) -> dict:
    """One update under the losses, as JSON."""
    torch.set_num_threads(1)
    scripts = {name: load((ROOT / f"ppo_{name}_continuous.py").read_text()) for name in SCRIPTS}
    scripts["none"] = load(insert.compose(NO_CLIP))
    klip = scripts["klip"]
    for script in scripts.values():
        script.__file__ = str(ROOT / "ppo_klip_continuous.py")  # the run folder has its hash
    settings = klip.Args(**args)
    update = capture(klip, iteration, **args)
    advantage = whole_rollout(update, settings.update_epochs).advantages.double().numpy()
    drawn = np.random.default_rng(1).permutation(len(advantage))[:num_drawn]
    clip_coef = settings.clip_coef
    edges = (np.log(1 - clip_coef), np.log(1 + clip_coef))
    arms = {}
    for name, script in scripts.items():
        log_ratios, checksum = replay(script, update, settings.update_epochs)
        killed = [in_kill_set(x, advantage, clip_coef) for x in log_ratios]
        arms[name] = {
            "weights": checksum,
            "kill": [round(float(members.mean()), 4) for members in killed],
            "largest": [round(float(np.exp(x.max())), 3) for x in log_ratios],
            "further": round(moved_further_out(log_ratios, killed), 3),
        }
        if name not in ("clip", "phi"):  # whose samples are those of klip
            codes = [to_bytes(x[drawn], LOG_RATIO_RANGE, edges) for x in log_ratios]
            arms[name]["logRatios"] = codes
    return {
        "envId": ENV_ID,
        "iteration": iteration,
        "samples": len(advantage),
        "clipCoef": clip_coef,
        "logRatioRange": LOG_RATIO_RANGE,
        "advantageRange": ADVANTAGE_RANGE,
        "advantages": to_bytes(advantage[drawn], ADVANTAGE_RANGE, (0.0,)),
        "arms": arms,
    }


def small_record() -> dict:
    """A record that a test can repeat in seconds."""
    return record(iteration=2, num_drawn=40, num_steps=512, num_minibatches=8)


def run_checks() -> list[dict]:
    """The command of every script, and what it prints of the run."""
    checks = []
    for name in SCRIPTS:
        script = f"ppo_{name}_continuous.py"
        with tempfile.TemporaryDirectory() as folder:
            ran = subprocess.run(
                [sys.executable, script, *CHECK, "--run-dir", f"{folder}/run"],
                cwd=ROOT,
                env=os.environ | {"COLUMNS": "80"},
                capture_output=True,
                text=True,
                check=True,
            )
        wanted = ("kill_fraction", "weights_sha256")
        printed = [line for line in ran.stdout.splitlines() if line.startswith(wanted)]
        checks.append({"command": " ".join(["python", script, *CHECK]), "printed": printed})
    return checks


def write(path: Path, content: dict | list) -> None:
    """A JSON file."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write page/replay.json and page/hashes.json.")
    parser.add_argument("--small", metavar="FILE", type=Path, help="write only the small record")
    small_file = parser.parse_args().small
    if small_file:
        write(small_file, small_record())
    else:
        write(PAGE / "replay.json", record() | {"small": small_record()})
        write(PAGE / "hashes.json", run_checks())
