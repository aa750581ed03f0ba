"""evaluate.py: what it plays, what it refuses, what it films."""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, script, start

import evaluate

needs_moviepy = pytest.mark.skipif(not find_spec("moviepy"), reason="moviepy is not installed")


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A run of two rollouts on Hopper-v4."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    length = ["--env-id", "Hopper-v4", "--total-timesteps", "4096"]
    done = start([script("kl_scalar"), "--run-dir", folder, *length], folder.parent)
    assert done.returncode == 0, done.stderr
    return folder


def save_agent(folder: Path, agent: evaluate.Agent, global_step: int = 64) -> None:
    torch.save({"global_step": global_step, "state_dict": agent.state_dict()}, folder / "agent.pt")


def make_run(folder: Path, env_id: str = "InvertedPendulum-v4", bias: float = 0.0) -> Path:
    """The files of a finished run of 64 steps whose agent is new, its first bias set."""
    env = evaluate.make_env(env_id)
    torch.manual_seed(1)
    agent = evaluate.Agent(env.observation_space.shape[0], env.action_space.shape[0])
    agent.actor_mean[0].bias.data[0] = bias
    weights = b"".join(tensor.numpy().tobytes() for tensor in agent.state_dict().values())
    config = {"env_id": env_id, "seed": 1, "total_timesteps": 100}
    result = {"global_step": 64, "weights_sha256": sha256(weights).hexdigest()}
    folder.mkdir()
    save_agent(folder, agent)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps(config | result))
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "run")


def evaluation(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def refused(capsys, *args, **kwargs) -> str:
    """The one line that evaluate prints when it exits with code 2."""
    with pytest.raises(SystemExit) as stopped, warnings.catch_warnings(record=True) as warned:
        evaluate.evaluate(*args, **kwargs)
    assert not warned
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == ""
    assert err.count("\n") == 1 and "error: " in err, err
    return err


def numpy_returns(state: dict, obs_mean: np.ndarray, obs_var: np.ndarray) -> list[float]:
    """Returns of Hopper-v4's mean policy from seeds 7 and 8, written independently."""
    weights = {name: tensor.numpy() for name, tensor in state.items()}
    env = evaluate.make_env("Hopper-v4")
    returns = []
    for seed in (7, 8):
        obs, _ = env.reset(seed=seed)
        total = 0.0
        done = False
        while not done:
            x = ((obs - obs_mean) / np.sqrt(obs_var + 1e-8)).clip(-10, 10)
            for i in (0, 2, 4):
                x = weights[f"actor_mean.{i}.weight"] @ x + weights[f"actor_mean.{i}.bias"]
                x = x if i == 4 else np.tanh(x)
            obs, reward, terminated, truncated, _ = env.step(x.clip(-1, 1).astype(np.float32))
            total += reward
            done = terminated or truncated
        returns.append(total)
    return returns


def test_command_line_plays_the_mean_action_of_the_saved_network(trained):
    command = [ROOT / "evaluate.py", trained, "--episodes", "2", "--seed", "7"]
    done = start(command, trained.parent)
    assert (done.returncode, done.stderr) == (0, "")
    found = evaluation(trained)
    state = torch.load(trained / "agent.pt", weights_only=True)["state_dict"]
    mean = state["obs_rms.mean"].numpy()
    var = state["obs_rms.var"].numpy()
    assert found["returns"] == pytest.approx(numpy_returns(state, mean, var), rel=1e-3)
    without_statistics = numpy_returns(state, np.zeros_like(mean), np.ones_like(var))
    assert found["returns"] != pytest.approx(without_statistics, rel=0.1)

    result = json.loads((trained / "result.json").read_text())
    assert found["weights_sha256"] == result["weights_sha256"]
    assert found["global_step"] == 4096 and found["finished"]
    assert found["mean"] == np.mean(found["returns"]) and found["std"] == np.std(found["returns"])
    score = f"return {found['mean']:.1f} +- {found['std']:.1f} over 2 episodes"
    assert done.stdout == f"{trained}: {score}\n"


class Recorder:
    """An environment of one state and 200 steps, which keeps the actions."""

    action_space = SimpleNamespace(
        shape=(2, 1), dtype=np.float64, low=np.full((2, 1), -9), high=np.full((2, 1), 1)
    )

    def __init__(self):
        self.actions = []

    def reset(self, seed: int):
        return np.ones(3), {}

    def step(self, action: np.ndarray):
        self.actions.append(action)
        return np.ones(3), random.random() + np.random.rand(1), False, len(self.actions) == 200, {}


@pytest.mark.parametrize("stochastic", [False, True])
def test_actions_are_the_mean_or_samples_clipped_to_the_action_space(stochastic):
    agent = evaluate.Agent(3, 2)
    agent.actor_mean[4].bias.data[:] = torch.tensor([-1.0, 1.0])
    agent.actor_logstd.data.fill_(-1.0)
    env = Recorder()
    with torch.no_grad():
        returns, lengths = evaluate.play(agent, env, 1, 5, stochastic)
        again, _ = evaluate.play(agent, Recorder(), 1, 5, stochastic)
    assert again == returns  # also of a task that draws from Python's and NumPy's generators
    assert lengths == [200] and {(a.shape, a.dtype) for a in env.actions} == {
        ((2, 1), np.dtype(np.float64))
    }
    first, second = np.concatenate(env.actions, axis=1)
    assert first.mean() == pytest.approx(-1, abs=0.15) and second.max() <= 1
    spread = np.exp(-1) if stochastic else 0
    assert first.std() == pytest.approx(spread, rel=0.2, abs=1e-6)


@pytest.mark.parametrize("stochastic", [False, True])
def test_same_call_same_numbers_alone_or_with_others(run, tmp_path, stochastic):
    other = make_run(tmp_path / "other")
    evaluate.evaluate((str(run),), 3, stochastic)
    first = (run / "evaluation.json").read_bytes()
    how = {"episodes": 3, "stochastic": stochastic, "seed": 1_000_000}
    assert how.items() <= json.loads(first).items()
    if not stochastic:  # episode k starts from seed + k
        evaluate.evaluate((str(run),), 2, seed=1_000_001)
        assert evaluation(run)["returns"] == json.loads(first)["returns"][1:]
    torch.manual_seed(5)
    evaluate.evaluate((str(other), str(run)), 3, stochastic)
    assert (run / "evaluation.json").read_bytes() == first
    assert (other / "evaluation.json").read_bytes() == first
    evaluate.evaluate((str(run),), 3, stochastic, seed=5)
    assert evaluation(run)["returns"] != json.loads(first)["returns"]


def test_an_unfinished_run_is_played_and_called_so(run, capsys):
    (run / "result.json").unlink()
    evaluate.evaluate((str(run),), 1)
    assert capsys.readouterr().out.endswith("over 1 episodes, unfinished: 64 of 100 steps\n")
    assert evaluation(run)["global_step"] == 64 and not evaluation(run)["finished"]


def test_a_folder_named_twice_is_played_once(run, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    (run.parent / "link").symlink_to("run")
    evaluate.evaluate(("run", "./run/", "link", str(run)), 1)
    assert capsys.readouterr().out.count("\n") == 1


def test_nothing_is_played_before_all_runs_are_checked(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for name in ("none", "empty"):
        assert f"{name}/config.json" in refused(capsys, (str(run), str(tmp_path / name)))
    assert not (run / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"episodes": 0}, "--episodes"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**31}, "--seed"),
        ({"runs": ()}, "at least one"),
    ],
)
def test_bad_arguments(run, capsys, arguments, named):
    assert named in refused(capsys, **({"runs": (str(run),)} | arguments))


def test_damaged_json(run, capsys):
    for name in ("config.json", "result.json"):
        whole = (run / name).read_bytes()
        damaged = [b"", b"{", b"[1]", b"null", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000]
        for content in damaged:
            (run / name).write_bytes(content)
            assert f"{run}/{name} cannot be read" in refused(capsys, (str(run),))
        (run / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"seed": 99}),
        ("result.json", {"global_step": 65}),
        ("result.json", {"weights_sha256": None}),
        ("result.json", {"env_id": "Hopper-v4"}),
    ],
)
def test_files_of_several_runs(run, capsys, name, change):
    values = json.loads((run / name).read_text()) | change
    (run / name).write_text(json.dumps(values))
    assert "are not those of one run" in refused(capsys, (str(run),))


@pytest.mark.parametrize("env_id", ["Nope-v0", "no_module:X-v0", "a b", ":", "", "x:y:z-v0", 3, []])
def test_unknown_task(run, capsys, env_id):
    (run / "config.json").write_text(json.dumps({"env_id": env_id}))
    assert "config.json names the task" in refused(capsys, (str(run),))


OWN_TASK = """
from gymnasium import register
register("Own-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=9)
"""


@pytest.mark.parametrize("env_id", ["own_task:Own-v0", "Pendulum"])
def test_every_name_of_a_task_that_training_takes(tmp_path, monkeypatch, env_id):
    (tmp_path / "own_task.py").write_text(OWN_TASK)
    monkeypatch.syspath_prepend(tmp_path)
    run = make_run(tmp_path / "run", env_id)
    with warnings.catch_warnings(action="error"):
        evaluate.evaluate((str(run),), 1)
    assert evaluation(run)["env_id"] == env_id


def test_damaged_agent(run, capsys):
    whole = (run / "agent.pt").read_bytes()
    rng = random.Random(1)
    damaged = [b"", b"\x80", whole[:-1], pickle.dumps(print), b"PK\x03\x04" + b"0" * 99]
    damaged += [whole[: rng.randrange(len(whole))] for _ in range(5)]
    for content in damaged:
        (run / "agent.pt").write_bytes(content)
        assert f"{run}/agent.pt " in refused(capsys, (str(run),))
    (run / "agent.pt").unlink()
    assert f"{run}/agent.pt cannot be read: No such file" in refused(capsys, (str(run),))


def test_foreign_agents(run, tmp_path, capsys):
    agent, _ = evaluate.load_agent(str(run / "agent.pt"), "InvertedPendulum-v4")
    of_older_scripts = agent.state_dict() | {"obs_stats": torch.zeros(3, 4)}
    for content in (of_older_scripts, {}, [3], {"global_step": 1}, torch.zeros(3)):
        torch.save(content, run / "agent.pt")
        assert "not an agent for InvertedPendulum-v4" in refused(capsys, (str(run),))
    hopper = make_run(tmp_path / "hopper", "Hopper-v4")
    shutil.copy(hopper / "agent.pt", run / "agent.pt")
    assert "not an agent for InvertedPendulum-v4" in refused(capsys, (str(run),))
    agent.actor_logstd.data += 1e-3
    save_agent(run, agent)
    assert "are not those of one run" in refused(capsys, (str(run),))


def test_weights_that_are_not_finite(tmp_path, capsys):
    run = make_run(tmp_path / "run", bias=np.nan)  # with a checksum that fits
    assert "agent.pt holds NaN or infinity" in refused(capsys, (str(run),))


def test_a_return_that_is_not_finite(run, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "play", lambda *arguments: ([np.nan], [1]))
    with pytest.raises(SystemExit):
        evaluate.evaluate((str(run),), 1)
    assert "InvertedPendulum-v4 gave a return of nan" in capsys.readouterr().err
    assert not (run / "evaluation.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_silence_even_while_it_imports(tmp_path, number):
    slow = "import time\nopen('importing', 'w').close()\ntime.sleep(60)\n"
    (tmp_path / "gymnasium.py").write_text(slow)
    process = subprocess.Popen(
        [sys.executable, ROOT / "evaluate.py", "run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    while not (tmp_path / "importing").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (-number, b"")


def test_video_without_moviepy(run, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)
    assert "pip install moviepy" in refused(capsys, (str(run),), capture_video=True)


def test_video_of_a_task_whose_renderer_is_missing(tmp_path, capsys, monkeypatch):
    run = make_run(tmp_path / "run", "Pendulum-v1")
    (tmp_path / "pygame.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(evaluate, "find_spec", lambda name: True)
    before = sorted(run.iterdir())
    message = refused(capsys, (str(run),), capture_video=True)
    assert "draw Pendulum-v1: pygame is not installed" in message and "OpenGL" not in message
    assert sorted(run.iterdir()) == before


def test_video_without_opengl(run, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "find_spec", lambda name: True)
    monkeypatch.setenv("MUJOCO_GL", "wrong")
    message = refused(capsys, (str(run),), capture_video=True)
    assert "MUJOCO_GL: wrong" in message and "libegl1" in message and "libosmesa6" in message


@pytest.mark.parametrize("works", evaluate.OPENGL_BACKENDS)
def test_the_first_opengl_that_works_is_taken(monkeypatch, works):
    tried = []

    def attempt(command, env, **kwargs):
        tried.append(env["MUJOCO_GL"])
        return subprocess.CompletedProcess(command, int(env["MUJOCO_GL"] != works), "")

    monkeypatch.setattr(evaluate, "find_spec", lambda name: True)
    monkeypatch.setattr(evaluate.subprocess, "run", attempt)
    monkeypatch.setenv("MUJOCO_GL", "")
    evaluate.prepare_video(["Hopper-v4"])
    assert os.environ["MUJOCO_GL"] == works == tried[-1]


@needs_moviepy
def test_film(run, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    (run / "videos").mkdir()
    (run / "videos" / "of-an-earlier-call.mp4").touch()
    done = start([ROOT / "evaluate.py", run, "--episodes", "2", "--capture-video"], run.parent)
    if "OpenGL" in done.stderr:
        pytest.skip("no OpenGL library")
    assert (done.returncode, done.stderr) == (0, "")
    filmed = evaluation(run)
    files = sorted((run / "videos").iterdir())
    assert [f.name for f in files] == [f"rl-video-episode-{k}.mp4" for k in (0, 1)]
    assert not (run / "videos.tmp").exists()

    from moviepy import VideoFileClip

    with VideoFileClip(str(files[0])) as clip:
        frames = [frame.astype(int) for frame in clip.iter_frames()]
    assert len(frames) == filmed["lengths"][0] + 1
    assert np.abs(frames[0] - frames[-1]).max() > 50  # the pole has moved
    evaluate.evaluate((str(run),), 2)
    assert evaluation(run) == filmed


@needs_moviepy
@pytest.mark.parametrize("content", [None, b"", b"half a film"])
def test_a_film_that_is_not_whole_is_refused(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "rl-video-episode-0.mp4").write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        evaluate.check_films(str(tmp_path), [7])
    assert stopped.value.code == 1
    assert "0 of 8 frames: is the disk full?" in capsys.readouterr().err


@pytest.mark.parametrize(("frames", "whole"), [(1001, True), (1000, True), (999, False)])
def test_a_film_may_lack_its_last_frame(monkeypatch, frames, whole):
    # moviepy writes int(1001 / 125 * 125) = 1000 of a whole episode of Hopper-v4
    stub = SimpleNamespace(count_frames_and_secs=lambda path: (frames, 8.0))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", stub)
    if whole:
        evaluate.check_films("videos", [1000])
    else:
        with pytest.raises(SystemExit):
            evaluate.check_films("videos", [1000])


def test_a_film_follows_the_robot():
    env = evaluate.make_env("Hopper-v4", **evaluate.render_kwargs("Hopper-v4"))
    renderer, model = env.unwrapped.mujoco_renderer, env.unwrapped.model
    assert renderer.camera_id == 0 and model.camera(0).name == "track"
    env.close()
