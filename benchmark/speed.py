"""How fast the training scripts run, beside Stable-Baselines3.

    python benchmark/speed.py
    python benchmark/speed.py --num-envs 1 2 4 8 16 --no-sb3 --no-compile
    python benchmark/speed.py --arms clip kl_fixed=3 spo --no-sb3
    python benchmark/speed.py --devices cpu cuda --num-envs 1 16 --batch-size 16384 \\
        --minibatch-sizes 64 4096 --steps 81920 --no-sb3

Every run is a process of its own; each repeat runs all rows once, so that a machine that slows
down or warms up does so for all of them. Prints Markdown.
"""

import signal
import sys


def stop(number: int, frame: object) -> None:
    """End with a signal's exit code, but clear up on the way; another signal changes nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)

import importlib.util
import json
import os
import platform
import re
import shlex
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from timeit import timeit
from typing import Literal, NamedTuple, NoReturn

import arms as registry
import gymnasium as gym
import psutil
import tyro

HERE = Path(__file__).resolve().parent
EPOCHS = 10  # passes over the steps of an iteration, of our scripts and of Stable-Baselines3
PHASES = ("act", "evaluate", "advantages", "update", "log")  # comments in train() that begin them
SB3 = "stable-baselines3"
SB3_PIN = f"{SB3}==2.9.2"
NOTES = """*Envs* is the number of environments, *size* that of a minibatch; an iteration takes {} steps in
all. *Whole* is the process from start to end, with imports and, from an empty cache, compilation;
*steady* begins with the third iteration. Ratios are taken within a repeat. *Env* is env.step and
reset; *log* is all that belongs to no other phase. The timers themselves are included, which for
env.step and mj_step take about {:.1f} µs per environment step. Memory is that of the process and its
children, read five times a second. Stable-Baselines3 has the same hyperparameters, and no log."""


@dataclass
class Args:
    envs: tuple[str, ...] = ("Walker2d-v4", "HalfCheetah-v4")  # tasks, a section for each
    arms: tuple[str, ...] = ("clip",)  # as benchmark.sh names them, a row for each
    devices: tuple[Literal["cpu", "cuda"], ...] = ("cpu",)  # what to update on, a row for each
    num_envs: tuple[int, ...] = (1,)  # environments, a row for each number
    minibatch_sizes: tuple[int, ...] = (64,)  # samples, a row for each number
    batch_size: int = 2048  # environment steps per iteration, of all environments together
    steps: int = 61440  # environment steps per run, rounded down to whole iterations
    repeats: int = 3  # runs of each row
    sb3: bool = True  # train with Stable-Baselines3, too
    compile: bool = True  # train with --compile, too


class Case(NamedTuple):
    """A row of the tables."""

    env_id: str
    arm: str | None  # None: Stable-Baselines3
    compiled: bool = False
    device: str = "cpu"
    num_envs: int = 1
    minibatch_size: int = 64
    batch_size: int = 2048

    def label(self) -> str:
        name = "Stable-Baselines3" if self.arm is None else self.arm
        name += ", --compile" * self.compiled
        return name + f", {self.device}" * (self.device != "cpu")


def fail(message: str) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"speed.py: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def check(args: Args) -> None:
    """Exit with code 2 and one line if an argument will not do."""
    try:
        for env_id in args.envs:
            gym.spec(env_id)
        for arm in args.arms:
            registry.parse(arm)
    except (gym.error.Error, ImportError, ValueError) as error:
        fail(f"--envs or --arms: {error}")
    if args.batch_size < 1:
        fail(f"--batch-size must be at least 1, not {args.batch_size}")
    for name in ("num_envs", "minibatch_sizes"):
        for number in getattr(args, name):
            if number < 1 or args.batch_size % number:
                flag = name.replace("_", "-")
                fail(f"--{flag} must divide --batch-size {args.batch_size}, {number} does not")
    if args.steps < 4 * args.batch_size:
        fail(f"--steps must be at least {4 * args.batch_size}, four iterations, not {args.steps}")
    if args.repeats < 1:
        fail(f"--repeats must be at least 1, not {args.repeats}")
    if "cuda" in args.devices:
        import torch

        if not torch.cuda.is_available():
            fail("--devices cuda needs a GPU, and this PyTorch finds none")
    if args.sb3 and not importlib.util.find_spec("stable_baselines3"):
        fail(f"--no-sb3 is needed, or Stable-Baselines3: pip install --no-deps {SB3_PIN}")


# --- in the processes that train ---


class Timers:
    """Seconds spent in the parts of a training program."""

    def __init__(self):
        self.spent = defaultdict(float, {"mj_step": 0.0})
        self.iterations = []  # what had been spent when each began

    def timed(self, name: str, function: Callable) -> Callable:
        """The function, which now adds the seconds it takes to spent[name]."""

        def run(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.spent[name] += time.perf_counter() - start
            return result

        return run

    def begin_iteration(self) -> None:
        self.iterations.append(self.spent | {"steady": time.perf_counter()})

    def per_step(self, batch_size: int) -> dict[str, float]:
        """Seconds per environment step, from the third iteration to the last but one."""
        first = self.iterations[2]
        last = self.iterations[-1]
        steps = (len(self.iterations) - 3) * batch_size
        return {name: (last[name] - first[name]) / steps for name in last}


def instrumented(source: str) -> str:
    """The script with a call of mark(phase) before each comment that begins a phase in train()."""
    comment = re.compile(rf"^ {{8}}# ({'|'.join(PHASES)})\b", re.MULTILINE)
    return comment.sub(r"        mark('\1')\n\g<0>", source)


def load_script(arm: registry.Arm) -> tuple:
    """The script of an arm as a module, its train() instrumented, from the current folder."""
    Path(arm.script).write_text(instrumented(arm.source()), encoding="utf-8")
    sys.argv[0] = arm.script
    sys.path.append("")
    return importlib.import_module(arm.script.removesuffix(".py"))


def train_script(case: Case, steps: int) -> dict[str, float]:
    """Train with the script of an arm; seconds per environment step "steady", that is in all, by
    phase, in env.step and reset, and in mj_step."""
    import mujoco
    import torch

    timers = Timers()
    phase = "start"
    phase_began = time.perf_counter()

    def mark(name: str) -> None:
        nonlocal phase, phase_began
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter()
        timers.spent[phase] += now - phase_began
        phase = name
        phase_began = now
        if name == PHASES[0]:
            timers.begin_iteration()

    def make_timed_env(*args, **kwargs):
        env = make_env(*args, **kwargs)
        env.step = timers.timed("env", env.step)
        env.reset = timers.timed("env", env.reset)
        return env

    arm = registry.parse(case.arm)
    script = load_script(arm)
    make_env = script.make_env
    script.make_env = make_timed_env
    script.mark = mark
    mujoco.mj_step = timers.timed("mj_step", mujoco.mj_step)
    argv = ["--env-id", case.env_id, "--total-timesteps", str(steps), "--run-dir", "run"]
    argv += ["--num-envs", str(case.num_envs)]
    argv += ["--num-steps", str(case.batch_size // case.num_envs)]
    argv += ["--num-minibatches", str(case.batch_size // case.minibatch_size)]
    argv += ["--update-epochs", str(EPOCHS)]
    argv += arm.flags + ["--cuda"] * (case.device == "cuda") + ["--compile"] * case.compiled
    script.train(tyro.cli(script.Args, args=argv))
    found = timers.per_step(case.batch_size)
    found["act"] -= found["env"]
    return found


def train_sb3(case: Case, steps: int) -> dict[str, float]:
    """Train Stable-Baselines3's PPO as our scripts do by default; seconds per environment step
    "steady", that is in all, and in mj_step."""
    import mujoco
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    timers = Timers()
    mujoco.mj_step = timers.timed("mj_step", mujoco.mj_step)
    torch.set_num_threads(1)

    class Clock(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            timers.begin_iteration()

    envs = make_vec_env(case.env_id, case.num_envs, seed=1)
    model = PPO(
        "MlpPolicy",
        VecNormalize(envs, clip_obs=10.0, clip_reward=10.0),
        learning_rate=lambda left: 3e-4 * left,
        n_steps=case.batch_size // case.num_envs,
        batch_size=case.minibatch_size,
        n_epochs=EPOCHS,
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.2,
        clip_range_vf=0.2,
        ent_coef=0.0,
        vf_coef=0.5,
        max_grad_norm=0.5,
        policy_kwargs={"log_std_init": 0.0},  # otherwise its defaults: 64-64 tanh, Adam eps 1e-5
        seed=1,
        device=case.device,
    )
    model.learn(steps, callback=Clock())
    return timers.per_step(case.batch_size)


# --- what starts and watches them ---


def wait_and_watch(process: psutil.Popen) -> int:
    """Wait for a process to end; peak resident memory of it and its descendants, bytes."""
    peak = 0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            tree = [process, *process.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in tree))
        with suppress(psutil.TimeoutExpired):
            process.wait(0.2)
    return peak


def run_process(code: str, folder: str) -> tuple[float, int]:
    """Run Python code in a folder: seconds, and peak memory in bytes.

    If it fails, what it wrote to standard error is passed on, and we exit with its code.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache",
    }
    with open(f"{folder}/stderr", "w+") as stderr:
        start = time.perf_counter()
        process = psutil.Popen(
            [sys.executable, "-c", code],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,  # a process group, to end with all its children
        )
        try:
            peak = wait_and_watch(process)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        seconds = time.perf_counter() - start
        if process.returncode:
            stderr.seek(0)
            print(stderr.read(), end="", file=sys.stderr)
            sys.exit(max(process.returncode, 1))
    return seconds, peak


def measure(case: Case, steps: int) -> dict[str, float]:
    """One run: what its function above returns, seconds per environment step of the "whole"
    process, and its "peak" memory in bytes."""
    function = "train_sb3" if case.arm is None else "train_script"
    call = f"{function}(Case{tuple(case)}, {steps})"
    code = f"from speed import *; json.dump({call}, open('found.json', 'w'))"
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        seconds, peak = run_process(code, folder)
        found = json.loads(Path(folder, "found.json").read_text())
    return found | {"whole": seconds / steps, "peak": peak}


# --- the tables ---


def cell(values: list[float], digits: int = 0) -> str:
    """The median, and where there are several values their smallest and largest."""
    text = f"{median(values):,.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):,.{digits}f}..{max(values):,.{digits}f})"
    return text


def table(rows: list[list[str]]) -> str:
    """Rows of cells as Markdown, the first of them the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def speed_table(runs: dict[Case, list[dict]]) -> str:
    """Steps per second, alone and against Stable-Baselines3, and memory."""
    head = ["", "envs", "size", "steps/s, whole process", "steps/s, steady"]
    head += ["× SB3, whole", "× SB3, steady", "% of time in mj_step", "peak memory, MB"]
    rows = [head]
    for case, these in runs.items():
        peers = runs.get(case._replace(arm=None, compiled=False), [])
        row = [case.label(), str(case.num_envs), str(case.minibatch_size)]
        for name in ("whole", "steady"):
            row.append(cell([1 / run[name] for run in these]))
        for name in ("whole", "steady"):
            ratios = [peer[name] / run[name] for peer, run in zip(peers, these)]
            row.append(cell(ratios, 2) if ratios else "")
        row.append(cell([100 * run["mj_step"] / run["steady"] for run in these]))
        row.append(cell([run["peak"] / 1e6 for run in these]))
        rows.append(row)
    return table(rows)


def phase_table(runs: dict[Case, list[dict]]) -> str:
    """Microseconds per environment step by phase, and per minibatch, of our own scripts."""
    parts = ["act", "env", *PHASES[1:], "steady", "mj_step"]
    head = ["µs per environment step", "envs", "size", *parts[:-2], "total", "of env: mj_step"]
    rows = [[*head, "µs per minibatch"]]
    for case, these in runs.items():
        if case.arm is not None:
            times = [cell([1e6 * run[name] for run in these], 1) for name in parts]
            minibatch = [1e6 * run["update"] * case.minibatch_size / EPOCHS for run in these]
            sizes = [str(case.num_envs), str(case.minibatch_size)]
            rows.append([case.label(), *sizes, *times, cell(minibatch)])
    return table(rows)


def machine(args: Args) -> str:
    """Processor, cores, GPU, system and versions."""
    name = platform.machine()
    with suppress(OSError, IndexError):
        name = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    parts = [name, f"{os.cpu_count()} cores", platform.system(), platform.release()]
    if "cuda" in args.devices:
        import torch

        parts.append(torch.cuda.get_device_name())
    packages = ["torch", "gymnasium", "mujoco", "numpy"] + [SB3] * args.sb3
    parts += [f"{package} {version(package)}" for package in packages]
    return ", ".join([*parts, f"Python {platform.python_version()}"])


def document(runs: dict[Case, list[dict]], args: Args) -> str:
    """All of it as Markdown."""
    command = shlex.join(["python", "benchmark/speed.py", *sys.argv[1:]])
    parts = [
        "# Speed",
        f"`{command}`, {time.strftime('%Y-%m-%d')}, {machine(args)}; one thread; "
        + f"median (smallest..largest) of {args.repeats} interleaved repeats.",
    ]
    for env_id in args.envs:
        own = {case: these for case, these in runs.items() if case.env_id == env_id}
        parts += [f"## {env_id}", speed_table(own), phase_table(own)]
    seconds_per_call = timeit(Timers().timed("", float), number=100_000) / 100_000
    parts.append(NOTES.format(f"{args.batch_size:,}", 2e6 * seconds_per_call))
    return "\n\n".join(parts)


def main(args: Args) -> None:
    """Measure, with a line per run on standard error, and print the tables."""
    check(args)
    steps = args.steps - args.steps % args.batch_size
    kinds = [(None, False)] * args.sb3
    for arm in args.arms:
        name = registry.parse(arm).name
        kinds += [(name, False)] + [(name, True)] * args.compile
    runs = {}
    for env_id, num_envs, size in product(args.envs, args.num_envs, args.minibatch_sizes):
        for (arm, compiled), device in product(kinds, args.devices):
            case = Case(env_id, arm, compiled, device, num_envs, size, args.batch_size)
            runs[case] = []
    for repeat in range(args.repeats):
        for case, these in runs.items():
            run = measure(case, steps)
            these.append(run)
            sizes = f"{case.num_envs} envs, minibatches of {case.minibatch_size}"
            where = f"{case.env_id}, {sizes}, {case.label()}"
            speed = f"{1 / run['steady']:,.0f} steps/s"
            print(f"repeat {repeat + 1}, {where}: {speed}", file=sys.stderr)
    print(document(runs, args))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
