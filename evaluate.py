"""Play runs of any of the scripts, finished or not, and report their return.

    python evaluate.py runs/Walker2d-v4__ppo_klip_continuous__1__1790000000
    python evaluate.py runs/Hopper-v4__* --episodes 100 --stochastic
    python evaluate.py runs/Walker2d-v4__* --capture-video --episodes 1

Prints one line per run and writes evaluation.json (and videos/*.mp4) into its folder. The same
call gives the same numbers, whichever other runs are in it.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends imports and play in silence

import json
import math
import os
import random
import shutil
import subprocess
import sys
import warnings
from hashlib import sha256
from importlib.util import find_spec
from typing import NamedTuple

import gymnasium as gym
import mujoco
import numpy as np
import torch
import tyro

from ppo_klip_continuous import Agent, fail, make_env, show_mujoco_warning, write_file

OPENGL_BACKENDS = ("egl", "osmesa", "glfw")  # values of MUJOCO_GL; the first two need no display
OPENGL_HINT = "; MuJoCo draws with OpenGL: apt-get install libegl1 libgl1-mesa-dri, or libosmesa6"
DRAW = """
import json, sys
import gymnasium as gym
for env_id, kwargs in json.loads(sys.argv[1]).items():
    try:
        env = gym.make(env_id, **kwargs)
        env.reset()
        env.render()
    except Exception as error:
        print(f"{env_id}: {error}".replace("\\n", " "))
        sys.exit(1)
"""


class Run(NamedTuple):
    """A run as its folder holds it."""

    path: str
    env_id: str
    agent: Agent
    weights_sha256: str
    global_step: int  # of the agent
    total_timesteps: int
    finished: bool


def describe(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or repr(error)


def read_json(path: str) -> dict:
    """The JSON object in a file; exits with code 2 if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        fail(f"{path} cannot be read: {describe(error)}")


def load_agent(path: str, env_id: str) -> tuple[Agent, int]:
    """The agent in a file agent.pt, and its global step; exits with code 2 if it cannot play."""
    env = make_env(env_id)
    obs_dim = math.prod(env.observation_space.shape)
    act_dim = math.prod(env.action_space.shape)
    env.close()
    agent = Agent(obs_dim, act_dim)
    try:
        with warnings.catch_warnings(action="ignore"):  # of formats that are refused anyway
            saved = torch.load(path, map_location="cpu", weights_only=True)
            agent.load_state_dict(saved["state_dict"])
            global_step = int(saved["global_step"])
    except OSError as error:
        fail(f"{path} cannot be read: {describe(error)}")
    except Exception:  # noqa: BLE001, a damaged file raises nearly anything
        fail(f"{path} is damaged, of older scripts, or not an agent for {env_id}")
    if not all(tensor.isfinite().all() for tensor in agent.state_dict().values()):
        fail(f"{path} holds NaN or infinity")
    return agent, global_step


def load(path: str) -> Run:
    """The run in a folder; exits with code 2 if its files are damaged or not of one run."""
    finished = os.path.exists(f"{path}/result.json")  # before agent.pt, which may change until then
    config = read_json(f"{path}/config.json")
    env_id = config.get("env_id")
    try:
        gym.make(env_id).close()
    except Exception as error:  # noqa: BLE001, depends on what stands there
        fail(f"{path}/config.json names the task {env_id!r}: {describe(error)}")
    agent, global_step = load_agent(f"{path}/agent.pt", env_id)
    weights = [tensor.numpy().tobytes() for tensor in agent.state_dict().values()]
    weights_sha256 = sha256(b"".join(weights)).hexdigest()
    if finished:
        result = read_json(f"{path}/result.json")
        known = config | {"global_step": global_step, "weights_sha256": weights_sha256}
        if not known.items() <= result.items():
            fail(f"{path}: config.json, agent.pt and result.json are not those of one run")
    if not os.access(path, os.W_OK):
        fail(f"{path} cannot be written, and evaluation.json goes there")
    total_timesteps = config.get("total_timesteps")
    return Run(path, env_id, agent, weights_sha256, global_step, total_timesteps, finished)


def render_kwargs(env_id: str) -> dict[str, str]:
    """What makes an environment show pictures; Gymnasium's MuJoCo tasks do so from the camera that
    follows the robot, other tasks may have none."""
    if is_mujoco(env_id):
        return {"render_mode": "rgb_array", "camera_name": "track"}
    return {"render_mode": "rgb_array"}


def is_mujoco(env_id: str) -> bool:
    """Whether this is one of Gymnasium's own MuJoCo tasks."""
    with gym.make(env_id) as env:
        return ".mujoco." in type(env.unwrapped).__module__


def prepare_video(env_ids: list[str]) -> None:
    """Set MUJOCO_GL, if unset, to what can render here; exits with code 2 unless every task can be
    drawn."""
    if not find_spec("moviepy"):
        fail("--capture-video needs the package moviepy: pip install moviepy")
    tasks = {env_id: render_kwargs(env_id) for env_id in env_ids}
    command = [sys.executable, "-c", DRAW, json.dumps(tasks)]
    asked = os.environ.get("MUJOCO_GL")
    for backend in [asked] if asked else OPENGL_BACKENDS:
        environment = os.environ | {"MUJOCO_GL": backend}
        # a process each, since a process can try only one
        tried = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        if tried.returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            return
    reason = tried.stdout.strip().rpartition("\n")[2]
    hint = OPENGL_HINT if any(is_mujoco(env_id) for env_id in env_ids) else ""
    fail(f"--capture-video cannot draw {reason or 'with ' + backend}{hint}")


def check_films(folder: str, lengths: list[int]) -> None:
    """Exit with code 1 if a film has not all frames of its episode, the last excepted.

    moviepy does not notice that its ffmpeg failed, on a full disk for one; and it computes the
    number of frames as int(frames / fps * fps), which may be one less.
    """
    from imageio_ffmpeg import count_frames_and_secs

    for k, length in enumerate(lengths):
        try:
            frames, _ = count_frames_and_secs(f"{folder}/rl-video-episode-{k}.mp4")
        except (OSError, RuntimeError):
            frames = 0
        if frames < length:
            fail(f"{folder} has {frames} of {length + 1} frames: is the disk full?", 1)


def play(
    agent: Agent, env: gym.Env, episodes: int, seed: int, stochastic: bool
) -> tuple[list[float], list[int]]:
    """Undiscounted return and length of each episode; episode k starts from seed + k.

    Actions are the policy's mean or, if stochastic, samples, clipped to the action space.
    """
    random.seed(seed)  # for tasks that draw from it
    np.random.seed(seed)
    generator = torch.Generator().manual_seed(seed)
    space = env.action_space
    std = agent.actor_logstd.exp()
    returns = [0.0] * episodes
    lengths = [0] * episodes
    for k in range(episodes):
        obs, _ = env.reset(seed=seed + k)
        done = False
        while not done:
            row = torch.tensor(np.float32(obs).reshape(1, -1))
            action = agent.actor_mean(agent.normalize(row))[0]
            if stochastic:
                action = action + std * torch.randn(std.shape, generator=generator)
            action = action.numpy().reshape(space.shape).clip(space.low, space.high)
            obs, reward, terminated, truncated, _ = env.step(action.astype(space.dtype))
            done = terminated or truncated
            returns[k] += np.asarray(reward).item()
            lengths[k] += 1
    return returns, lengths


def play_and_film(run: Run, episodes: int, seed: int, stochastic: bool) -> tuple[list, list]:
    """`play`, filmed into the run's folder videos, which is replaced when the films are whole."""
    films = f"{run.path}/videos.tmp"
    shutil.rmtree(films, ignore_errors=True)
    try:
        env = make_env(run.env_id, **render_kwargs(run.env_id))
        env = gym.wrappers.RecordVideo(env, films, episode_trigger=lambda episode: True)
        returns, lengths = play(run.agent, env, episodes, seed, stochastic)
        env.close()
        check_films(films, lengths)
        shutil.rmtree(f"{run.path}/videos", ignore_errors=True)
        os.replace(films, f"{run.path}/videos")
    finally:
        shutil.rmtree(films, ignore_errors=True)
    return returns, lengths


@torch.no_grad()
def evaluate(
    runs: tyro.conf.Positional[tuple[str, ...]],
    episodes: int = 10,
    stochastic: bool = False,
    capture_video: bool = False,
    seed: int = 1_000_000,
) -> None:
    """Play runs, finished or not; nothing is played before all of them are found in order.

    Args:
        runs: run folders
        episodes: episodes to play in each run
        stochastic: sample actions instead of taking the policy's mean
        capture_video: also film the episodes, into videos/ in the run folder
        seed: of the first episode, later ones count up; not one that training starts from
    """
    if not runs:
        fail("name at least one run folder")
    if episodes < 1:
        fail(f"--episodes must be at least 1, not {episodes}")
    if not 0 <= seed < 2**31:
        fail(f"--seed must be in [0, {2**31 - 1}], not {seed}")
    torch.set_num_threads(1)
    gym.logger.min_level = gym.logger.ERROR  # quiet, as the scripts are
    mujoco.set_mju_user_warning(show_mujoco_warning)
    once = {os.path.realpath(path): path for path in runs}
    loaded = [load(path) for path in once.values()]
    if capture_video:
        prepare_video([run.env_id for run in loaded])

    for run in loaded:
        if capture_video:
            returns, lengths = play_and_film(run, episodes, seed, stochastic)
        else:
            env = make_env(run.env_id)
            returns, lengths = play(run.agent, env, episodes, seed, stochastic)
            env.close()
        mean = float(np.mean(returns))
        std = float(np.std(returns))
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
        write_file(f"{run.path}/evaluation.json", json.dumps(evaluation, indent=2).encode())
        so_far = f"{run.global_step} of {run.total_timesteps} steps"
        note = "" if run.finished else f", unfinished: {so_far}"
        print(
            f"{run.path}: return {mean:.1f} +- {std:.1f} over {episodes} episodes{note}", flush=True
        )


if __name__ == "__main__":
    try:
        tyro.cli(evaluate)
    except OSError as error:
        fail(f"cannot write: {describe(error)}", 1)
