"""Play runs of any of the scripts, finished or not, and report their return.

    python evaluate.py runs/Walker2d-v4__ppo_klip_continuous__1__1790000000
    python evaluate.py runs/Hopper-v4__* --episodes 100 --stochastic
    python evaluate.py runs/Walker2d-v4__* --capture-video --episodes 1

Prints one line a run and writes evaluation.json (and videos/*.mp4) into its folder. The same call
gives the same numbers, whichever other runs are in it.
"""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, NoReturn


def choose_opengl() -> None:
    """Set MUJOCO_GL to the first backend that works here; leave it unset if none does."""
    trial = "import mujoco; mujoco.GLContext(8, 8).make_current()"
    for backend in ("egl", "osmesa", "glfw"):  # the first two need no display
        environment = os.environ | {"MUJOCO_GL": backend}
        command = [sys.executable, "-c", trial]
        if not subprocess.run(
            command, env=environment, capture_output=True, check=False
        ).returncode:
            os.environ["MUJOCO_GL"] = backend
            return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends imports and play in silence
    if "--capture-video" in sys.argv and "MUJOCO_GL" not in os.environ:
        choose_opengl()  # now, because mujoco reads the variable when it is imported

import gymnasium as gym
import numpy as np
import torch
import tyro

from ppo_klip_continuous import Agent, ArgumentError, make_env


class Run(NamedTuple):
    """A run as its folder holds it."""

    path: str
    env_id: str
    agent: Agent
    weights_sha256: str
    global_step: int  # of the agent
    total_timesteps: int
    finished: bool


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line and exit: code 2 for bad input, 1 for what went wrong while playing."""
    print(f"evaluate.py: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def read_json(path: str) -> dict:
    """The JSON object in a file; exits with code 2 if there is none."""
    try:
        return dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        fail(f"{path} cannot be read: {error}")


def try_env(path: str, env_id: str, **kwargs) -> gym.Env:
    """The task of a run; exits with code 2 if it cannot be made."""
    try:
        return make_env(env_id, **kwargs)
    except ArgumentError as error:
        fail(f"{path}: {error}")


def load(path: str) -> Run:
    """The run in a folder; exits with code 2 if its files are damaged or not of one run."""
    finished = os.path.exists(f"{path}/result.json")  # before agent.pt, which may change until then
    config = read_json(f"{path}/config.json")
    env_id = str(config.get("env_id"))
    env = try_env(path, env_id)
    agent = Agent(env.observation_space.shape[0], math.prod(env.action_space.shape))
    env.close()
    try:
        # weights_only: an agent from elsewhere must not be able to run code
        saved = torch.load(f"{path}/agent.pt", map_location="cpu", weights_only=True)
        agent.load_state_dict(saved["state_dict"])
        global_step = int(saved["global_step"])
    except OSError as error:
        fail(f"{path}/agent.pt cannot be read: {error}")
    except Exception:  # noqa: BLE001, a damaged file raises nearly anything
        fail(f"{path}/agent.pt is damaged, of other scripts, or not an agent for {env_id}")
    state = agent.state_dict().values()
    if not all(tensor.isfinite().all() for tensor in state):
        fail(f"{path}/agent.pt holds NaN or infinity")
    weights_sha256 = sha256(b"".join(tensor.numpy().tobytes() for tensor in state)).hexdigest()
    if finished:
        known = config | {"global_step": global_step, "weights_sha256": weights_sha256}
        if not known.items() <= read_json(f"{path}/result.json").items():
            fail(f"{path}: config.json, agent.pt and result.json are not those of one run")
    if not os.access(path, os.W_OK):
        fail(f"{path} cannot be written, and evaluation.json goes there")
    total_timesteps = config.get("total_timesteps")
    return Run(path, env_id, agent, weights_sha256, global_step, total_timesteps, finished)


def filming_env(run: Run) -> gym.Env:
    """The run's task, which draws; exits with code 2 if it cannot draw here."""
    env = try_env(run.path, run.env_id)
    of_gymnasium = ".mujoco." in type(env.unwrapped).__module__
    env.close()
    camera = {"camera_name": "track"} if of_gymnasium else {}  # it follows the robot
    env = try_env(run.path, run.env_id, render_mode="rgb_array", **camera)
    try:
        env.reset()
        frame = env.render()
    except Exception as error:  # noqa: BLE001, OpenGL's and a task's own errors are of any kind
        hint = "; MuJoCo draws with OpenGL: apt-get install libegl1 libgl1-mesa-dri, or libosmesa6"
        fail(f"--capture-video cannot draw {run.env_id}: {error!r}{hint}")
    if frame is None:
        fail(f"--capture-video cannot draw {run.env_id}: its render() returns None")
    return env


def check_films(folder: str, lengths: list[int]) -> None:
    """Exit with code 1 if a film lacks frames: moviepy does not notice that its ffmpeg failed."""
    from imageio_ffmpeg import count_frames_and_secs

    for k, length in enumerate(lengths):
        try:
            frames, _ = count_frames_and_secs(f"{folder}/rl-video-episode-{k}.mp4")
        except (OSError, RuntimeError):
            frames = 0
        if frames < length:  # moviepy may leave out the last of length + 1
            fail(f"{folder} has {frames} of {length + 1} frames: is the disk full?", 1)


def play(
    run: Run, env: gym.Env, episodes: int, seed: int, stochastic: bool, max_steps: int
) -> tuple[list[float], list[int]]:
    """Undiscounted return and length of each episode; episode k starts from seed + k.

    Actions are the policy's mean or, if stochastic, samples. Exits with code 1 if an episode does
    not end within max_steps.
    """
    random.seed(seed)  # for tasks that draw from it
    np.random.seed(seed)
    generator = torch.Generator().manual_seed(seed)
    std = run.agent.actor_logstd.exp()
    returns, lengths = [], []
    for k in range(episodes):
        obs, _ = env.reset(seed=seed + k)
        for _ in range(max_steps):
            row = torch.tensor(np.float32(obs)).reshape(1, -1)
            action = run.agent.actor_mean(run.agent.normalize(row))[0]
            if stochastic:
                action = action + std * torch.randn(std.shape, generator=generator)
            obs, _, terminated, truncated, info = env.step(
                action.numpy().reshape(env.action_space.shape)
            )
            if terminated or truncated:
                break
        else:
            fail(f"{run.path}: an episode did not end within --max-steps {max_steps}", 1)
        returns.append(np.sum(info["episode"]["r"]).item())  # of some tasks an array of one number
        lengths.append(info["episode"]["l"])
    return returns, lengths


@torch.no_grad()
def evaluate(
    runs: tyro.conf.Positional[tuple[str, ...]],
    episodes: int = 10,
    stochastic: bool = False,
    capture_video: bool = False,
    seed: int = 1_000_000,
    max_steps: int = 100_000,
) -> None:
    """Play runs, finished or not; nothing is played before all of them are found in order.

    Args:
        runs: run folders
        episodes: episodes to play in each run
        stochastic: sample actions instead of taking the policy's mean
        capture_video: also film the episodes, into videos/ in the run folder
        seed: of the first episode, later ones count up; not one that training starts from
        max_steps: give up on an episode that takes longer
    """
    if not runs:
        fail("name at least one run folder")
    if episodes < 1:
        fail(f"--episodes must be at least 1, not {episodes}")
    if max_steps < 1:
        fail(f"--max-steps must be at least 1, not {max_steps}")
    if not 0 <= seed < 2**31:
        fail(f"--seed must be in [0, 2^31), not {seed}")
    if capture_video and not find_spec("moviepy"):
        fail("--capture-video needs the package moviepy: pip install moviepy")
    torch.set_num_threads(1)
    once = {os.path.realpath(path): path for path in runs}
    loaded = [load(path) for path in once.values()]
    if capture_video:
        for run in loaded:
            filming_env(run).close()

    for run in loaded:
        films = f"{run.path}/videos.tmp"
        env = filming_env(run) if capture_video else try_env(run.path, run.env_id)
        try:
            if capture_video:
                shutil.rmtree(films, ignore_errors=True)
                env = gym.wrappers.RecordVideo(env, films, episode_trigger=lambda episode: True)
            returns, lengths = play(run, env, episodes, seed, stochastic, max_steps)
        finally:
            env.close()
        if capture_video:
            check_films(films, lengths)
            shutil.rmtree(f"{run.path}/videos", ignore_errors=True)
            os.replace(films, f"{run.path}/videos")
        mean, std = np.mean(returns), np.std(returns)
        if not math.isfinite(mean):
            fail(f"{run.path}: {run.env_id} gave a return of {mean}", 1)
        evaluation = {
            "env_id": run.env_id,
            "weights_sha256": run.weights_sha256,
            "global_step": run.global_step,
            "finished": run.finished,
            "episodes": episodes,
            "stochastic": stochastic,
            "seed": seed,
            "mean": mean,
            "std": std,
            "returns": returns,
            "lengths": lengths,
        }
        draft = Path(f"{run.path}/evaluation.json.tmp")
        draft.write_text(json.dumps(evaluation, indent=2))
        os.replace(draft, f"{run.path}/evaluation.json")
        so_far = f"{run.global_step} of {run.total_timesteps} steps"
        note = "" if run.finished else f", unfinished: {so_far}"
        print(
            f"{run.path}: return {mean:.1f} +- {std:.1f} over {episodes} episodes{note}", flush=True
        )


if __name__ == "__main__":
    tyro.cli(evaluate)
