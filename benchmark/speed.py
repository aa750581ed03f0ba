"""Measure how fast the scripts train, and Stable-Baselines3 with the same hyperparameters.

    pip install --no-deps stable-baselines3==2.9.2 cloudpickle==3.1.2    # or: --no-sb3
    python benchmark/speed.py > speed.md

Every row is trained several times, in turn with the others, one thread each; the table has the
medians, standard error a line per run. *Whole* is the process from start to end, imports and, from an
empty cache, compilation included; *steady* begins with the third iteration. All programs write a log.
Memory is the process's and its children's together, looked at ten times a second.
"""

import importlib.util
import os
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import arms as registry
import pandas as pd
import psutil
import tyro
from report import markdown, number

SB3 = "stable-baselines3"
ITERATION = 2048  # environment steps, of all programs alike
# Called with the same arguments as the scripts, as below.
TRAIN_SB3 = f"""
import sys
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

torch.set_num_threads(1)
_, _, env_id, _, steps, _, folder = sys.argv
model = PPO(
    "MlpPolicy",
    VecNormalize(make_vec_env(env_id, seed=1), clip_obs=10.0, clip_reward=10.0),
    learning_rate=lambda left: 3e-4 * left,
    n_steps={ITERATION},
    clip_range_vf=0.2,
    policy_kwargs={{"log_std_init": 0.0}},  # the rest are its defaults, and ours
    seed=1,
    device="cpu",
    tensorboard_log=folder,
)
model.learn(int(steps))
"""


@dataclass
class Args:
    envs: tuple[str, ...] = ("Walker2d-v4", "HalfCheetah-v4")  # tasks
    arms: tuple[str, ...] = ("clip",)  # as benchmark.sh names them
    steps: int = 61440  # environment steps per run
    repeats: int = 3  # runs of each row
    sb3: bool = True  # train with Stable-Baselines3, too
    compile: bool = True  # train with --compile, too


def watch(command: list[str], folder: str) -> tuple[float, int]:
    """Run a command in a folder: its seconds, and peak memory in bytes of it and its children."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"}
    start, peak = time.perf_counter(), 0
    with open(f"{folder}/output", "w") as file:
        process = psutil.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            tree = [process, *process.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in tree))
        with suppress(psutil.TimeoutExpired):
            process.wait(0.1)
    if process.returncode:
        raise ValueError(Path(folder, "output").read_text().strip().splitlines()[-1])
    return time.perf_counter() - start, peak


def measure(source: str, env_id: str, steps: int, flags: list[str]) -> dict[str, float]:
    """One run of a script: steps/s of the "whole" process and "steady", peak "memory" in MB."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        Path(folder, "train.py").write_text(source, encoding="utf-8")
        command = [sys.executable, "train.py", "--env-id", env_id, "--total-timesteps", str(steps)]
        seconds, peak = watch([*command, "--run-dir", "run", *flags], folder)
        (file,) = Path(folder).rglob("events.*")
        log = EventAccumulator(str(file)).Reload()
    tag = "losses/kl" if "losses/kl" in log.Tags()["scalars"] else "time/fps"  # SB3's
    times = [event.wall_time for event in log.Scalars(tag)][1:]  # the third begins at the second
    steady = (len(times) - 1) * ITERATION / (times[-1] - times[0])
    return {"whole": steps / seconds, "steady": steady, "memory": peak / 1e6}


def table(runs: pd.DataFrame) -> str:
    """Medians of steps per second, of their ratio to Stable-Baselines3's in a repeat, of memory."""
    peers = runs[runs.row == SB3].set_index(["task", "repeat"])[["whole", "steady"]]
    runs = runs.join(peers.add_suffix("_sb3"), on=["task", "repeat"])
    for part in ("whole", "steady"):
        runs[f"x_{part}"] = runs[part] / runs[f"{part}_sb3"]
    digits = {"whole": 0, "steady": 0, "x_whole": 2, "x_steady": 2, "memory": 0}
    medians = runs.groupby(["task", "row"], sort=False)[list(digits)].median()
    rows = [[*key, *map(number, row, digits.values())] for key, *row in medians.itertuples()]
    head = "task | | steps/s, whole | steps/s, steady | × SB3, whole | × SB3, steady | memory, MB"
    return markdown(head, rows)


def main(args: Args) -> None:
    """Measure, and print the table; ValueError if an argument will not do."""
    if args.steps < 4 * ITERATION:  # steady is from the third to the last
        raise ValueError(f"--steps must be at least {4 * ITERATION}, not {args.steps}")
    if args.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, not {args.repeats}")
    if args.sb3 and not importlib.util.find_spec("stable_baselines3"):
        raise ValueError("--no-sb3 is needed, or Stable-Baselines3: see --help")
    rows = [(SB3, TRAIN_SB3, [])] if args.sb3 else []
    for arm in map(registry.parse, args.arms):
        rows.append((arm.name, arm.source(), [*arm.flags]))
        if args.compile:
            rows.append((f"{arm.name}, --compile", arm.source(), [*arm.flags, "--compile"]))
    steps = args.steps - args.steps % ITERATION
    runs = []
    for repeat in range(args.repeats):
        for task in args.envs:
            for row, source, flags in rows:
                found = measure(source, task, steps, flags)
                runs.append({"task": task, "row": row, "repeat": repeat, **found})
                print(runs[-1], file=sys.stderr)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "mujoco", "numpy"))
    print(f"{steps:,} steps, medians of {args.repeats}; {os.cpu_count()} cores, {packages}\n")
    print(table(pd.DataFrame(runs)))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except ValueError as error:
        print(f"speed.py: error: {error}", file=sys.stderr)
        sys.exit(2)
