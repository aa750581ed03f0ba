"""Play runs of any of the scripts, finished or not, and report their return.

    python evaluate.py runs/Walker2d-v4__ppo_klip_continuous__1__1790000000
    python evaluate.py runs/Hopper-v4__* --episodes 100 --stochastic
    python evaluate.py runs/Walker2d-v4__* --capture-video --episodes 1

Prints one line per run and writes evaluation.json (and videos/*.mp4) into its folder. The same call
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
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path


def choose_opengl() -> None:
    """Set MUJOCO_GL to the first backend that works here without a display, if one does."""
    trial = [sys.executable, "-c", "import mujoco; mujoco.GLContext(8, 8).make_current()"]
    for backend in ("egl", "osmesa"):
        os.environ["MUJOCO_GL"] = backend
        if subprocess.run(trial, capture_output=True, check=False).returncode == 0:
            return
    del os.environ["MUJOCO_GL"]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends imports and play in silence
    if {"--capture-video", "--capture_video"} & {*sys.argv} and "MUJOCO_GL" not in os.environ:
        choose_opengl()  # now, because mujoco reads the variable when it is imported

# first, because it makes NumPy round alike on every processor
from ppo_klip_continuous import Agent, ArgumentError, make_env, numpy_policy  # isort: skip

import gymnasium as gym
import numpy as np
import torch
import tyro


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[str, ...]]  # run folders
    episodes: int = 10  # episodes to play in each run
    stochastic: bool = False  # sample actions instead of taking the policy's mean
    capture_video: bool = False  # also film the episodes, into videos/ in the run folder
    seed: int = 1_000_000  # of the first episode, then counts up; training starts from small ones
    max_steps: int = 100_000  # give up on an episode that takes longer


class PlayError(Exception):
    """An episode, its return or its film will not do; the message says of which run."""


def read_json(path: str) -> dict:
    """The JSON object in a file; ArgumentError if there is none."""
    try:
        return dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ArgumentError(f"{os.path.basename(path)} cannot be read: {error}") from error


def filming_env(env_id: str) -> gym.Env:
    """A task that draws; ArgumentError if it cannot draw here."""
    with make_env(env_id) as env:
        of_gymnasium = ".mujoco." in type(env.unwrapped).__module__
    camera = {"camera_name": "track"} if of_gymnasium else {}  # it follows the robot
    env = make_env(env_id, render_mode="rgb_array", **camera)
    env.reset()
    try:
        if env.render() is None:
            raise TypeError("render() returned None")
    except Exception as error:  # OpenGL's and a task's own errors are of any kind
        env.close()
        hint = "if MuJoCo lacks OpenGL: apt-get install libegl1 libgl1-mesa-dri, or libosmesa6"
        raise ArgumentError(f"--capture-video cannot draw {env_id}: {error!r}; {hint}") from error
    return env


def load(path: str) -> tuple[list[np.ndarray], dict]:
    """Arrays for numpy_policy, and facts, of the run in a folder; ArgumentError if it is damaged."""
    finished = os.path.exists(f"{path}/result.json")  # before agent.pt, which may change until then
    config = read_json(f"{path}/config.json")
    env_id = config.get("env_id")
    with make_env(env_id) as env:
        agent = Agent(env.observation_space.shape[0], math.prod(env.action_space.shape))
    try:
        # weights_only: an agent from elsewhere must not be able to run code
        saved = torch.load(f"{path}/agent.pt", map_location="cpu", weights_only=True)
        agent.load_state_dict(saved["state_dict"])
        global_step = int(saved["global_step"])
    except OSError as error:
        raise ArgumentError(f"agent.pt cannot be read: {error}") from error
    except Exception as error:  # a damaged file raises nearly anything
        raise ArgumentError(f"agent.pt is damaged or not an agent for {env_id}") from error
    state = [tensor.numpy() for tensor in agent.state_dict().values()]
    if not np.isfinite(np.concatenate(state, None)).all():
        raise ArgumentError("agent.pt holds NaN or infinity")
    weights_sha256 = sha256(b"".join(array.tobytes() for array in state)).hexdigest()
    known = config | {"global_step": global_step, "weights_sha256": weights_sha256}
    if finished and not known.items() <= read_json(f"{path}/result.json").items():
        raise ArgumentError("config.json, agent.pt and result.json are not those of one run")
    if not os.access(path, os.W_OK):
        raise ArgumentError("the folder cannot be written, and evaluation.json goes there")
    names = ("env_id", "total_timesteps", "global_step", "weights_sha256")
    return state, {name: known.get(name) for name in names} | {"finished": finished}


def play(path: str, state: list[np.ndarray], env: gym.Env, args: Args) -> tuple[list, list]:
    """Undiscounted returns and lengths of episodes that start from seed, seed + 1, and so on."""
    random.seed(args.seed)  # this and the next for tasks that draw from them
    np.random.seed(args.seed)
    generator = np.random.default_rng(args.seed)
    returns, lengths = [], []
    for k in range(args.episodes):
        obs, _ = env.reset(seed=args.seed + k)
        for _ in range(args.max_steps):
            action = numpy_policy(state, np.float32(obs))
            if args.stochastic:
                action += np.exp(state[0]) * generator.standard_normal(len(action), np.float32)
            obs, _, terminated, truncated, info = env.step(action.reshape(env.action_space.shape))
            if terminated or truncated:
                break
        else:
            raise PlayError(f"{path}: an episode did not end within --max-steps {args.max_steps}")
        returns.append(np.sum(info["episode"]["r"]).item())  # of some tasks an array of one number
        lengths.append(info["episode"]["l"])
        if not math.isfinite(returns[-1]):
            raise PlayError(f"{path}: an episode had a return of {returns[-1]}")
    return returns, lengths


def check_films(folder: str, lengths: list[int]) -> None:
    """PlayError if a film lacks frames: moviepy does not notice that its ffmpeg failed."""
    from imageio_ffmpeg import count_frames_and_secs

    for k, length in enumerate(lengths):
        try:
            frames, _ = count_frames_and_secs(f"{folder}/rl-video-episode-{k}.mp4")
        except (OSError, RuntimeError):
            frames = 0
        if frames < length:  # moviepy may leave out the last of length + 1
            raise PlayError(f"{folder}: {frames} of {length + 1} frames: is the disk full?")


def evaluate(args: Args) -> None:
    """Play runs. ArgumentError before any is played if one of them will not do."""
    film = args.capture_video
    rules = {
        "name at least one run folder": args.runs,
        "--episodes must be 1 or more": args.episodes > 0,
        "--max-steps must be 1 or more": args.max_steps > 0,
        "--seed must be in [0, 2^31)": 0 <= args.seed < 2**31,
        "--capture-video needs `pip install moviepy`": find_spec("moviepy") or not film,
    }
    for rule, holds in rules.items():
        if not holds:
            raise ArgumentError(rule)
    loaded = {}
    for path in {os.path.realpath(path): path for path in args.runs}.values():  # each folder once
        try:
            loaded[path] = load(path)
            if film:
                filming_env(loaded[path][1]["env_id"]).close()
        except ArgumentError as error:
            raise ArgumentError(f"{path}: {error}") from error

    for path, (state, facts) in loaded.items():
        films = f"{path}/videos.tmp"
        if film:
            shutil.rmtree(films, ignore_errors=True)
            env = gym.wrappers.RecordVideo(filming_env(facts["env_id"]), films, lambda _: True)
        else:
            env = make_env(facts["env_id"])
        with env:
            returns, lengths = play(path, state, env, args)
        if film:
            check_films(films, lengths)
            shutil.rmtree(f"{path}/videos", ignore_errors=True)
            os.replace(films, f"{path}/videos")
        mean, std = np.mean(returns), np.std(returns)
        settings = {"episodes": args.episodes, "stochastic": args.stochastic, "seed": args.seed}
        scores = {"mean": mean, "std": std, "returns": returns, "lengths": lengths}
        evaluation = json.dumps(facts | settings | scores, indent=2)
        Path(f"{path}/evaluation.json.tmp").write_text(evaluation)
        os.replace(f"{path}/evaluation.json.tmp", f"{path}/evaluation.json")
        score = f"return {mean:.1f} +- {std:.1f} over {args.episodes} episodes"
        so_far = f"unfinished: {facts['global_step']} of {facts['total_timesteps']} steps"
        print(f"{path}: {score}{'' if facts['finished'] else ', ' + so_far}", flush=True)


if __name__ == "__main__":
    try:
        evaluate(tyro.cli(Args, description=__doc__))
    except (ArgumentError, PlayError) as error:
        print(f"evaluate.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ArgumentError) else 1)
