"""How fast the training script runs, beside Stable-Baselines3 and the physics alone.

    python benchmark/speed.py --env-id Walker2d-v4 --steps 100000 --repeats 3
    python benchmark/speed.py --num-envs 1 2 4 8 16 --no-sb3   # cost per step as it grows
    python benchmark/speed.py --env-id HalfCheetah-v4 --cuda

Prints Markdown. Every run is a process of its own; a repeat runs each kind once, so that a
machine that slows down or warms up does so for all of them. The first time it installs
Stable-Baselines3 into benchmark/.sb3, beside this interpreter's own packages, not among them.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from importlib.metadata import version
from statistics import median

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(HERE)
SCRIPT = f"{REPOSITORY}/ppo_clip_continuous.py"
SB3_DIR, SB3_PINS = f"{HERE}/.sb3", ("stable-baselines3==2.9.2", "cloudpickle==3.1.2")
BATCH = 2048  # environment steps per iteration, of all environments together
PHASES = ("act", "evaluate", "advantages", "update", "log")  # as train() marks them
COLUMNS = ("act", "env", "evaluate", "advantages", "update", "log")
KINDS = {"sb3": "Stable-Baselines3", "eager": "this script", "compile": "this script, --compile"}
LEANRL = {"CleanRL": 652, "LeanRL, compile and CUDA graphs": 1774}  # its README, steps/s


def fail(message: str, code: int = 2):
    """Print one line and exit: code 2 for bad input, 1 for a run that broke."""
    print(f"speed.py: error: {message}", file=sys.stderr)
    raise SystemExit(code)


# --- what runs in processes of its own ---


def probe(env_id: str, cuda: bool) -> dict:
    """The GPU's name, if --cuda asks for one; exits with 2 if there is none or no such task."""
    import torch

    from ppo_clip_continuous import make_env

    if cuda and not torch.cuda.is_available():
        fail("--cuda needs a GPU that PyTorch can use")
    if not hasattr(make_env(env_id).unwrapped, "frame_skip"):
        fail(f"--env-id must name a MuJoCo task, {env_id} is none")
    return {"gpu": torch.cuda.get_device_name() if cuda else None}


def sb3(env_id: str, num_envs: int, steps: int, cuda: bool) -> dict:
    """Train Stable-Baselines3's PPO as our script is by default; seconds per step after two
    iterations, and those within mj_step."""
    import mujoco
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    spent, began = defaultdict(float), []
    mujoco.mj_step = timed(spent, "mj_step", mujoco.mj_step)

    class Clock(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            began.append((time.perf_counter(), spent["mj_step"]))

    model = PPO(
        "MlpPolicy",
        VecNormalize(make_vec_env(env_id, num_envs, seed=1), clip_obs=10.0, clip_reward=10.0),
        learning_rate=lambda left: 3e-4 * left,
        n_steps=BATCH // num_envs,
        batch_size=64,
        n_epochs=10,
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.2,
        clip_range_vf=0.2,
        ent_coef=0.0,
        vf_coef=0.5,
        max_grad_norm=0.5,
        policy_kwargs={"log_std_init": 0.0},  # otherwise its defaults: 64-64 tanh, Adam eps 1e-5
        seed=1,
        device="cuda" if cuda else "cpu",
    )
    model.learn(steps, callback=Clock())
    count = model.num_timesteps - 2 * BATCH
    steady = (time.perf_counter() - began[2][0]) / count
    return {"steady": steady, "mj_step": (spent["mj_step"] - began[2][1]) / count}


def physics(env_id: str, steps: int) -> dict:
    """Seconds per environment step of mj_step alone, over a run of random actions.

    The run is played once in the environment to learn where its episodes end and how the next
    begin, then again, timed, as nothing but the controls and mj_step: the same states.
    """
    import mujoco

    from ppo_clip_continuous import make_env

    env = make_env(env_id)
    model, data, skip = env.unwrapped.model, env.unwrapped.data, env.unwrapped.frame_skip
    env.action_space.seed(1)
    actions, starts, done = [env.action_space.sample() for _ in range(steps)], {}, True
    for t, action in enumerate(actions):
        if done:
            env.reset(seed=1 if t == 0 else None)
            starts[t] = data.qpos.copy(), data.qvel.copy()
        _, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
    start = time.perf_counter()
    for t, action in enumerate(actions):
        if t in starts:
            mujoco.mj_resetData(model, data)
            data.qpos[:], data.qvel[:] = starts[t]
        data.ctrl[:] = action
        mujoco.mj_step(model, data, nstep=skip)
    return {"steady": (time.perf_counter() - start) / steps}


def timed(spent: dict, name: str, function):
    """The function, which now adds the seconds it takes to spent[name]."""

    def run(*args, **kwargs):
        start = time.perf_counter()
        result = function(*args, **kwargs)
        spent[name] += time.perf_counter() - start
        return result

    return run


def instrumented(source: str) -> str:
    """The script with a call of mark(phase) before each comment that begins a phase in train().

    Raises ValueError unless these are exactly the PHASES, in order.
    """
    comment = re.compile(rf"^ {{8}}# ({'|'.join(PHASES)})\b", re.MULTILINE)
    if (found := tuple(comment.findall(source))) != PHASES:
        raise ValueError(f"phases marked in the script: {found}, expected: {PHASES}")
    return comment.sub(r"        mark('\1')\n\g<0>", source)


def phases(num_envs: int, argv: list[str]) -> dict:
    """Run a copy of the script with timers; seconds per environment step by phase, by mj_step
    and in all, from its third iteration to the last but one, and what the timers cost of it."""
    import mujoco
    import torch
    import tyro

    spent, snapshots, now = defaultdict(float), [], [time.perf_counter(), "log"]

    def mark(phase: str) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        start, last = now
        now[:] = time.perf_counter(), phase
        spent[last] += now[0] - start
        if phase == "act":
            snapshots.append(dict(spent))

    def make_env(*args, **kwargs):
        env = plain_make_env(*args, **kwargs)
        env.step, env.reset = (timed(spent, "env", f) for f in (env.step, env.reset))
        return env

    with open(SCRIPT) as file:
        source = instrumented(file.read())
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/{os.path.basename(SCRIPT)}"
        with open(path, "w") as file:
            file.write(source)
        spec = importlib.util.spec_from_file_location("instrumented_script", path)
        script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        script.mark = mark
        spec.loader.exec_module(script)
    plain_make_env, script.make_env = script.make_env, make_env
    mujoco.mj_step = timed(spent, "mj_step", mujoco.mj_step)
    tyro.cli(script.train, args=argv, config=(tyro.conf.OmitArgPrefixes,))

    first, last = snapshots[2], snapshots[-1]
    steps = (len(snapshots) - 3) * BATCH
    per_step = {name: (last[name] - first.get(name, 0.0)) / steps for name in last}
    per_step["total"] = sum(per_step[name] for name in PHASES)
    per_step["act"] -= per_step["env"]
    nothing, start = timed(defaultdict(float), "", lambda: None), time.perf_counter()
    for _ in range(100_000):
        nothing()
    return per_step | {"timers": 2 * (time.perf_counter() - start) / 100_000}


# --- what starts them ---


def tree_bytes(root: int) -> int:
    """Resident memory of a process and its descendants, bytes; 0 where there is no /proc."""
    parent, resident = {}, {}
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parent[int(name)], resident[int(name)] = int(fields[1]), int(fields[21])
    tree = [root]
    for pid in tree:
        tree += [child for child in parent if parent[child] == pid]
    # A child between fork and exec still shows its parent's pages: not counted twice.
    pages = sum(
        resident.get(pid, 0) for pid in tree if resident.get(pid) != resident.get(parent.get(pid))
    )
    return pages * os.sysconf("SC_PAGE_SIZE")


def launch(command: list[str], **environment: str) -> tuple[float, float, str]:
    """Run a command: seconds, peak memory of its process tree in MB, its standard output.

    The peak is the larger of the biggest process's exact peak and of the tree's sum, which is
    read twice a second. If the command fails, exits with its code: 2 with its last line alone.
    """
    variables = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | environment
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start, peaks, ended = time.perf_counter(), [0], threading.Event()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=variables)

        def watch() -> None:
            while not ended.wait(0.5):
                peaks.append(tree_bytes(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        finally:
            seconds = time.perf_counter() - start
            ended.set()
            watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if process.returncode:
            lines = err.read().strip().splitlines() or ["no message"]
            if process.returncode != 2:
                print(shlex.join(command), *lines[:-1], sep="\n", file=sys.stderr)
            print(lines[-1], file=sys.stderr)
            raise SystemExit(process.returncode if process.returncode > 0 else 1)
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
        return seconds, max(*peaks, usage.ru_maxrss * unit) / 1e6, out.read()


def call(function, *args, **environment: str) -> tuple[float, float, dict]:
    """Run one of the functions above in its own process: seconds, peak MB, what it returned."""
    code = "import json, speed, sys; sys.argv = ['speed.py']; print()\n"
    code += f"print(json.dumps(speed.{function.__name__}(*{args!r})))"
    path = os.pathsep.join([HERE, REPOSITORY, *([SB3_DIR] if function is sb3 else [])])
    seconds, peak, out = launch([sys.executable, "-c", code], PYTHONPATH=path, **environment)
    return seconds, peak, json.loads(out.splitlines()[-1])


def ours(env_id: str, num_envs: int, steps: int, cuda: bool, compiled: bool) -> dict:
    """Run the script twice, as it is and then with timers, compilers' caches empty both times."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    argv = ["--env-id", env_id, "--num-envs", str(num_envs), "--num-steps", str(BATCH // num_envs)]
    argv += ["--total-timesteps", str(steps), "--cuda" if cuda else "--no-cuda"]
    argv += ["--compile"] * compiled
    with tempfile.TemporaryDirectory() as folder:
        run, cache = ["--run-dir", f"{folder}/run"], {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"}
        seconds, peak, _ = launch([sys.executable, SCRIPT, *argv, *run], **cache)
        events = EventAccumulator(f"{folder}/run").Reload().Scalars("charts/SPS")
        at = {event.step: event.step / event.value for event in events}  # seconds since the start
        steady = (at[steps] - at[2 * BATCH]) / (steps - 2 * BATCH)
    with tempfile.TemporaryDirectory() as folder:
        run, cache = ["--run-dir", f"{folder}/run"], {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"}
        by_phase = call(phases, num_envs, argv + run, **cache)[2]
    share = by_phase["mj_step"] / by_phase["total"]
    return {"whole": seconds / steps, "steady": steady, "peak": peak, "share": share} | {
        "phases": by_phase
    }


def install_sb3() -> None:
    """Install Stable-Baselines3 by its pin into SB3_DIR, if that has not been done."""
    done = f"{SB3_DIR}/{SB3_PINS[0]}"
    if os.path.exists(done):
        return
    print(f"installing {SB3_PINS[0]} into {SB3_DIR}", file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
    if subprocess.call([*pip, "--target", SB3_DIR, *SB3_PINS], stdout=sys.stderr):
        fail(f"{SB3_PINS[0]} cannot be installed: leave it out with --no-sb3", 1)
    for name, text in ((f"{SB3_DIR}/.gitignore", "*\n"), (done, "")):
        with open(name, "w") as file:
            file.write(text)


def measure(kind: str, env_id: str, num_envs: int, steps: int, cuda: bool) -> dict:
    """One run: seconds per environment step "whole" and "steady", "peak" MB, "share" of mj_step."""
    if kind == "physics":
        return call(physics, env_id, min(steps, 50_000))[2]
    if kind != "sb3":
        return ours(env_id, num_envs, steps, cuda, kind == "compile")
    seconds, peak, result = call(sb3, env_id, num_envs, steps, cuda)
    share = result["mj_step"] / result["steady"]
    return {"whole": seconds / steps, "steady": result["steady"], "peak": peak, "share": share}


# --- the tables ---


def cell(values: list[float], digits: int = 0) -> str:
    """The median, and where there are several values their smallest and largest."""
    spread = f" ({min(values):,.{digits}f}..{max(values):,.{digits}f})" if len(values) > 1 else ""
    return f"{median(values):,.{digits}f}{spread}"


def table(rows: list[list[str]]) -> str:
    """Rows of cells as Markdown, the first of them the head."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def report(runs: dict[tuple[str, int], list[dict]], env_id: str, cuda: bool) -> str:
    """The two tables over runs[kind, num_envs], the same number of runs in each."""
    speeds = [["", "envs", "steps/s, whole process", "steps/s, steady", "× SB3, whole"]]
    speeds[0] += ["× SB3, steady", "% of time in mj_step", "peak memory, MB"]
    times = [["µs per environment step", "envs", *COLUMNS, "total", "of env: mj_step"]]
    for (kind, num_envs), these in runs.items():
        if kind == "physics":
            speed = cell([1 / run["steady"] for run in these])
            speeds.append(["physics alone", "1", "", speed, "", "", "100", ""])
            continue
        row, peers = [KINDS[kind], str(num_envs)], runs.get(("sb3", num_envs), [])
        row += [cell([1 / run[name] for run in these]) for name in ("whole", "steady")]
        for name in ("whole", "steady"):
            ratios = [peer[name] / run[name] for peer, run in zip(peers, these)]
            row.append(cell(ratios, 2) if peers else "")
        row += [cell([100 * run["share"] for run in these]), cell([run["peak"] for run in these])]
        speeds.append(row)
        if kind != "sb3":
            row = [KINDS[kind], str(num_envs)]
            for name in (*COLUMNS, "total", "mj_step"):
                row.append(cell([1e6 * run["phases"][name] for run in these], 1))
            times.append(row)
    if cuda:
        for name, speed in LEANRL.items():
            name += ", as LeanRL published it (HalfCheetah, H100)"
            speeds.append([name, "1", "", f"{speed:,}", "", "", "", ""])
    timers = [
        run["phases"]["timers"] for these in runs.values() for run in these if "phases" in run
    ]
    return f"""{env_id}

{table(speeds)}

{table(times)}

Steady: after the second iteration, without imports and compilation; ratios are taken within a
repeat. The phases and the share of mj_step come from separate runs of a copy with timers, which
take {1e6 * median(timers):.1f} µs per environment step; env includes resets, log all else that an iteration does.
Memory is the whole process tree's, in the host. Stable-Baselines3 writes no log. The physics
alone replays a run of random actions, a trained policy meets other states."""


def machine() -> str:
    """Processor, cores and system."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            name = (re.findall(r"model name\s*: (.*)", file.read()) or [name])[0]
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def main() -> None:
    """Measure, with a line per run on standard error, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--env-id", default="Walker2d-v4", help="a MuJoCo task")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1], help="one row for each")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps per run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    parser.add_argument("--cuda", action="store_true", help="train on the GPU, all of them")
    parser.add_argument("--no-sb3", action="store_true", help="leave Stable-Baselines3 out")
    parser.add_argument("--no-compile", action="store_true", help="leave --compile out")
    args = parser.parse_args()
    for n in args.num_envs:
        if n < 1 or BATCH % n:
            fail(f"--num-envs must divide {BATCH}, the steps per iteration, {n} does not")
    if args.steps < 4 * BATCH:
        fail(f"--steps must be at least {4 * BATCH}, four iterations, not {args.steps}")
    if args.repeats < 1:
        fail(f"--repeats must be at least 1, not {args.repeats}")
    gpu = call(probe, args.env_id, args.cuda)[2]["gpu"]
    if not args.no_sb3:
        install_sb3()
    left_out = ["sb3"] * args.no_sb3 + ["compile"] * args.no_compile
    kinds = [kind for kind in ("sb3", "eager", "compile") if kind not in left_out]
    order = [(kind, n) for n in args.num_envs for kind in kinds] + [("physics", 1)]
    steps, runs = args.steps - args.steps % BATCH, {key: [] for key in order}
    for repeat in range(args.repeats):
        for kind, n in order:
            run = measure(kind, args.env_id, n, steps, args.cuda)
            runs[kind, n].append(run)
            said = f"{kind}, {n} envs: {1 / run['steady']:,.0f} steps/s"
            print(f"repeat {repeat + 1}: {said}", file=sys.stderr)
    packages = [f"{name} {version(name)}" for name in ("torch", "gymnasium", "mujoco", "numpy")]
    packages += [] if args.no_sb3 else [SB3_PINS[0].replace("==", " ")]
    print(f"`python benchmark/speed.py {shlex.join(sys.argv[1:])}`, {time.strftime('%Y-%m-%d')}\n")
    print(f"{machine()}{f', {gpu}' if gpu else ''}; Python {platform.python_version()}, ", end="")
    print(f"{', '.join(packages)}; 1 thread, {steps:,} steps per run; ", end="")
    print(f"median (smallest..largest) of {args.repeats} interleaved.\n")
    print(report(runs, args.env_id, args.cuda))


if __name__ == "__main__":
    main()
