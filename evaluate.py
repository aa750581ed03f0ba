"""Play finished runs of any of the four scripts and report their return.

    python evaluate.py runs/Walker2d-v4__ppo_klip_continuous__1__1790000000
    python evaluate.py runs/* --episodes 100 --stochastic
    python evaluate.py runs/Walker2d-v4__* --capture-video --episodes 1

Prints one line per run and writes evaluation.json (and videos/*.mp4) into its folder. The same
call gives the same numbers, whichever other runs are in it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from hashlib import sha256
from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import torch
import tyro

from ppo_klip_continuous import Agent, fail, make_env, write


def load(path: str) -> tuple[Agent, dict]:
    """The agent and result.json of the finished run in a folder; exits with code 2 if it has none.

    Refused: what is not whole (agent.pt must have the checksum in result.json) and what does not
    fit together (config.json must agree with result.json, agent.pt with the task).
    """
    if not os.path.isdir(path):
        fail(f"{path} is not a folder: name the folder of a finished run")
    if not os.path.exists(f"{path}/result.json"):
        fail(f"{path} is not a finished run: it has no result.json")
    if not os.access(path, os.W_OK):
        fail(f"{path} cannot be written, and evaluation.json goes there")
    config, result = {}, {}
    for name, values in (("config", config), ("result", result)):
        try:
            with open(f"{path}/{name}.json", encoding="utf-8") as file:
                values |= json.load(file)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            fail(f"{path}/{name}.json cannot be read: {describe(error)}")
    env_id, sha = config.get("env_id"), result.get("weights_sha256")
    if not (isinstance(env_id, str) and isinstance(sha, str) and config.items() <= result.items()):
        fail(f"{path}/config.json and result.json are not those of one run")
    try:
        gym.spec(env_id)
    except (gym.error.Error, ImportError, ValueError) as error:
        fail(f"{path}/config.json names the task {env_id}: {describe(error)}")
    env = make_env(env_id)
    agent = Agent(np.prod(env.observation_space.shape), np.prod(env.action_space.shape))
    env.close()
    try:
        with warnings.catch_warnings(action="ignore"):  # of formats that are refused anyway
            state = torch.load(f"{path}/agent.pt", map_location="cpu", weights_only=True)
        agent.load_state_dict(state)
    except OSError as error:
        fail(f"{path}/agent.pt cannot be read: {describe(error)}")
    except Exception:  # noqa: BLE001, a damaged file raises nearly anything
        fail(f"{path}/agent.pt is damaged, or not an agent for {env_id}")
    arrays = (x.numpy().tobytes() for x in agent.state_dict().values())
    if sha256(b"".join(arrays)).hexdigest() != sha:
        fail(f"{path}/agent.pt is not the agent of this run: its checksum is not result.json's")
    return agent, result


def play(
    agent: Agent, env: gym.Env, episodes: int, seed: int, stochastic: bool
) -> tuple[list[float], list[int]]:
    """Undiscounted return and length of each episode; episode k starts from seed + k.

    Actions are the policy's mean or, if stochastic, samples, clipped to the action space.
    """
    box, noise = env.action_space, torch.Generator().manual_seed(seed)
    std = agent.actor_logstd.exp() if stochastic else torch.zeros_like(agent.actor_logstd)
    returns, lengths = [0.0] * episodes, [0] * episodes
    for k in range(episodes):
        obs, done = env.reset(seed=seed + k)[0], False
        while not done:
            x = agent.normalize(torch.tensor(np.float32(obs).reshape(1, -1)))
            action = agent.actor_mean(x)[0] + std * torch.randn(std.shape, generator=noise)
            action = action.numpy().reshape(box.shape).clip(box.low, box.high).astype(box.dtype)
            obs, reward, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
            returns[k] += float(reward)
            lengths[k] += 1
    return returns, lengths


def prepare_video() -> None:
    """Set MUJOCO_GL, if unset, to what can render here; exits with code 2 if nothing can."""
    if not find_spec("moviepy"):
        fail("--capture-video needs the package moviepy: pip install moviepy")
    draw = "import mujoco as m; m.Renderer(m.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()"
    asked = os.environ.get("MUJOCO_GL")
    for gl in [asked] if asked else ["egl", "osmesa", "glfw"]:  # the first two need no display
        env = os.environ | {"MUJOCO_GL": gl}  # a process each, since one can only try once
        tried = subprocess.run(
            [sys.executable, "-c", draw], env=env, capture_output=True, check=False
        )
        if tried.returncode == 0:
            os.environ["MUJOCO_GL"] = gl
            return
    found = f"and MUJOCO_GL={asked} does not work" if asked else "and finds none"
    install = "apt-get install libegl1 libgl1-mesa-dri (for MUJOCO_GL=egl), or libosmesa6 (osmesa)"
    fail(f"--capture-video needs an OpenGL library {found}: {install}")


def film(env_id: str) -> dict[str, str]:
    """What makes an environment show pictures, with Gymnasium's MuJoCo tasks as seen from the
    camera that follows the robot; others may not take its name."""
    ours = ".mujoco." in str(gym.spec(env_id).entry_point)
    return {"render_mode": "rgb_array"} | ({"camera_name": "track"} if ours else {})


def keep_films(path: str, lengths: list[int]) -> None:
    """Rename videos.tmp to videos; exits with code 1 if a film has not all frames of its episode.

    moviepy itself does not notice that its ffmpeg failed, on a full disk for one.
    """
    from imageio_ffmpeg import count_frames_and_secs

    for k, length in enumerate(lengths):
        try:
            frames, _ = count_frames_and_secs(f"{path}/videos.tmp/rl-video-episode-{k}.mp4")
        except (OSError, RuntimeError):
            frames = 0
        if frames != length + 1:
            fail(f"{path}/videos.tmp holds {frames} of {length + 1} frames: is the disk full?", 1)
    shutil.rmtree(f"{path}/videos", ignore_errors=True)
    os.replace(f"{path}/videos.tmp", f"{path}/videos")


def describe(error: Exception) -> str:
    """An error in one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or repr(error)


@torch.no_grad()
def evaluate(
    runs: tyro.conf.Positional[tuple[str, ...]],
    episodes: int = 10,
    stochastic: bool = False,
    capture_video: bool = False,
    seed: int = 1_000_000,
) -> None:
    """Play finished runs; nothing is played before all of them are found in order.

    Args:
        runs: run folders
        episodes: episodes to play in each run
        stochastic: sample actions instead of taking the policy's mean
        capture_video: also film the episodes, into videos/ in the run folder
        seed: of the first episode, later ones count up; not one that training starts from
    """
    if not runs:
        fail("name at least one folder of a finished run")
    if episodes < 1:
        fail(f"--episodes must be at least 1, not {episodes}")
    if not 0 <= seed < 2**31:
        fail(f"--seed must be in [0, {2**31 - 1}], not {seed}")
    if capture_video:
        prepare_video()
    torch.set_num_threads(1)
    loaded = [load(path) for path in runs]
    for path, (agent, run) in zip(runs, loaded):
        env = make_env(run["env_id"], **(film(run["env_id"]) if capture_video else {}))
        if capture_video:
            shutil.rmtree(f"{path}/videos.tmp", ignore_errors=True)
            env = gym.wrappers.RecordVideo(env, f"{path}/videos.tmp", lambda _: True)
        returns, lengths = play(agent, env, episodes, seed, stochastic)
        env.close()
        if capture_video:
            keep_films(path, lengths)
        mean, std = float(np.mean(returns)), float(np.std(returns))
        result = {"env_id": run["env_id"], "weights_sha256": run["weights_sha256"]}
        result |= {"episodes": episodes, "stochastic": stochastic, "seed": seed}
        result |= {"mean": mean, "std": std, "returns": returns, "lengths": lengths}
        write(f"{path}/evaluation.json", json.dumps(result, indent=2).encode())
        print(f"{path}: return {mean:.1f} +- {std:.1f} over {episodes} episodes")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        tyro.cli(evaluate)
    except OSError as error:
        fail(f"the run folder cannot be written: {describe(error)}", 1)
