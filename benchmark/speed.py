"""Measure how fast the scripts train, and Stable-Baselines3 with the same hyperparameters.

    pip install --no-deps stable-baselines3==2.9.2 cloudpickle==3.1.2    # or: --no-sb3
    python benchmark/speed.py > speed.md

Every row is trained several times, in turn with the others, one thread each. *Whole* is the process
from start to end, imports and, from an empty cache, compilation included; *steady* begins with the
third iteration. Memory is the process's and its children's together, looked at ten times a second.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NoReturn

import arms as registry
import psutil
import tyro

SB3 = "stable-baselines3"
ITERATION = 2048  # environment steps, of all programs alike
FEWEST = 4  # iterations: steady is from the third to the last


@dataclass
class Args:
    envs: tuple[str, ...] = ("Walker2d-v4", "HalfCheetah-v4")  # tasks, a table for each
    arms: tuple[str, ...] = ("clip",)  # as benchmark.sh names them
    steps: int = 61440  # environment steps per run
    repeats: int = 3  # runs of each row
    sb3: bool = True  # train with Stable-Baselines3, too
    compile: bool = True  # train with --compile, too


def fail(message: object) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"speed.py: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def train_sb3(env_id: str, steps: int) -> None:
    """Train Stable-Baselines3's PPO as our scripts do; write at which time each iteration began."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    begun = []

    class Clock(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            begun.append(time.time())

    model = PPO(
        "MlpPolicy",
        VecNormalize(make_vec_env(env_id, seed=1), clip_obs=10.0, clip_reward=10.0),
        learning_rate=lambda left: 3e-4 * left,
        n_steps=ITERATION,
        clip_range_vf=0.2,
        policy_kwargs={"log_std_init": 0.0},  # the rest are its defaults, and ours
        seed=1,
        device="cpu",
    )
    model.learn(steps, callback=Clock())
    Path("times.json").write_text(json.dumps(begun))


def logged_times(run: Path) -> list[float]:
    """At which time each iteration of a script was logged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [event.wall_time for event in EventAccumulator(str(run)).Reload().Scalars("losses/kl")]


def watch(command: list[str], folder: str) -> tuple[float, int]:
    """Run a command in a folder: its seconds, and peak memory in bytes of it and its children.

    If it fails, what it wrote to standard error is passed on, and we exit with its code.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"}
    with open(f"{folder}/stderr", "w+") as stderr:
        start, peak = time.perf_counter(), 0
        process = psutil.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=stderr
        )
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                tree = [process, *process.children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in tree))
            with suppress(psutil.TimeoutExpired):
                process.wait(0.1)
        seconds = time.perf_counter() - start
        if process.returncode:
            stderr.seek(0)
            print(stderr.read(), end="", file=sys.stderr)
            sys.exit(max(process.returncode, 1))
    return seconds, peak


def measure(env_id: str, name: str, compiled: bool, steps: int) -> dict[str, float]:
    """One run: steps/s of the "whole" process and "steady", and its peak "memory" in MB."""
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        if name == SB3:
            code = f"import speed; speed.train_sb3({env_id!r}, {steps})"
            seconds, peak = watch([sys.executable, "-c", code], folder)
            times = json.loads(Path(folder, "times.json").read_text())
        else:
            arm = registry.parse(name)
            Path(folder, arm.script).write_text(arm.source(), encoding="utf-8")
            command = [
                sys.executable,
                arm.script,
                "--env-id",
                env_id,
                "--total-timesteps",
                str(steps),
            ]
            command += ["--run-dir", "run", *arm.flags, *["--compile"] * compiled]
            seconds, peak = watch(command, folder)
            times = logged_times(Path(folder, "run"))[1:]  # the second ends where the third begins
        first = 2 if name == SB3 else 0
        steady = (len(times) - 1 - first) * ITERATION / (times[-1] - times[first])
    return {"whole": steps / seconds, "steady": steady, "memory": peak / 1e6}


def cell(values: list[float], digits: int = 0) -> str:
    """The median, and of several values their smallest and largest."""
    text = f"{median(values):,.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):,.{digits}f}..{max(values):,.{digits}f})"
    return text


def table(runs: dict[tuple[str, bool], list[dict]]) -> str:
    """Steps per second, alone and against Stable-Baselines3 within a repeat, and memory."""
    head = ["", "steps/s, whole", "steps/s, steady", "× SB3, whole", "× SB3, steady", "memory, MB"]
    rows = [head, ["---"] * len(head)]
    for (name, compiled), these in runs.items():
        row = [name + ", --compile" * compiled]
        row += [cell([run[part] for run in these]) for part in ("whole", "steady")]
        for part in ("whole", "steady"):
            pairs = zip(these, runs.get((SB3, False), []), strict=False)
            ratios = [run[part] / peer[part] for run, peer in pairs]
            row.append(cell(ratios, 2) if ratios else "")
        rows.append([*row, cell([run["memory"] for run in these])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(args: Args) -> None:
    """Measure, with a line per run on standard error, and print the tables."""
    if args.steps < FEWEST * ITERATION:
        fail(f"--steps must be at least {FEWEST * ITERATION}, not {args.steps}")
    if args.repeats < 1:
        fail(f"--repeats must be at least 1, not {args.repeats}")
    if args.sb3 and not importlib.util.find_spec("stable_baselines3"):
        fail("--no-sb3 is needed, or Stable-Baselines3: see --help")
    try:
        names = [registry.parse(text).name for text in args.arms]
    except ValueError as error:
        fail(f"--arms: {error}")
    rows = [(SB3, False)] * args.sb3
    rows += [(name, how) for name in names for how in (False, True)[: 1 + args.compile]]
    steps = args.steps - args.steps % ITERATION
    runs = {env_id: {row: [] for row in rows} for env_id in args.envs}
    for repeat in range(args.repeats):
        for env_id in args.envs:
            for row in rows:
                run = measure(env_id, *row, steps)
                runs[env_id][row].append(run)
                line = f"repeat {repeat + 1}, {env_id}, {row[0]}{', --compile' * row[1]}"
                print(f"{line}: {run['steady']:,.0f} steps/s", file=sys.stderr)
    about = f"{steps:,} steps, median (smallest..largest) of {args.repeats}; {os.cpu_count()} cores"
    print(", ".join([about, *(f"{name} {version(name)}" for name in ("torch", "mujoco", "numpy"))]))
    for env_id in args.envs:
        print(f"\n## {env_id}\n\n{table(runs[env_id])}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except KeyboardInterrupt:
        sys.exit(130)
