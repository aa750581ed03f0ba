"""evaluate.py: what it plays, what it refuses, what it films."""

import json
import os
import pickle
import random
import shutil
import subprocess
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, VARIANTS, script, start

import evaluate

TINY = ["--total-timesteps", "64", "--num-steps", "64", "--num-minibatches", "2"]


def train(variant: str, folder: Path, *more: str) -> Path:
    """Train into a folder and return it."""
    done = start([script(variant), "--run-dir", folder, "--no-cuda", *more], folder.parent)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A run that has learned: Hopper-v4 for 30 rollouts, about five times the first return."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return train("klip", folder, "--env-id", "Hopper-v4", "--total-timesteps", "61440")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "run"
    return train("clip", folder, "--env-id", "InvertedPendulum-v4", *TINY)


@pytest.fixture
def run(tiny, tmp_path) -> Path:
    """A tiny finished run that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "run"))


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


def test_evaluated_return_is_that_of_training_and_needs_the_observation_statistics(trained):
    result = json.loads((trained / "result.json").read_text())
    evaluate.evaluate((str(trained),), episodes=10, stochastic=True)
    sampled = evaluation(trained)["mean"]
    assert 0.6 < sampled / result["episodic_return"] < 1.6
    agent, _ = evaluate.load(str(trained))
    agent.obs_stats[:] = torch.tensor([[0.0], [1.0], [0.0]])
    env = evaluate.make_env(result["env_id"])
    with torch.no_grad():
        control, _ = evaluate.play(agent, env, 10, 1_000_000, True)
    env.close()
    assert np.mean(control) < 0.5 * sampled


def test_plays_the_mean_action_of_the_saved_network(trained):
    evaluate.evaluate((str(trained),), episodes=2, seed=7)
    state = torch.load(trained / "agent.pt", weights_only=True)
    (mean, var, _), net = state["obs_stats"].numpy(), "actor_mean"
    w = [state[f"{net}.{i}.weight"].numpy().T for i in (0, 2, 4)]
    b = [state[f"{net}.{i}.bias"].numpy() for i in (0, 2, 4)]
    env, returns = evaluate.make_env("Hopper-v4"), []
    for seed in (7, 8):
        obs, total, done = env.reset(seed=seed)[0], 0.0, False
        while not done:
            x = ((obs - mean) / np.sqrt(var + 1e-8)).clip(-10, 10)
            action = np.tanh(np.tanh(x @ w[0] + b[0]) @ w[1] + b[1]) @ w[2] + b[2]
            obs, reward, terminated, truncated, _ = env.step(action.clip(-1, 1).astype(np.float32))
            total, done = total + reward, terminated or truncated
        returns.append(total)
    assert evaluation(trained)["returns"] == pytest.approx(returns, rel=0.02)


@pytest.mark.parametrize("stochastic", [False, True])
def test_same_call_same_numbers_alone_or_with_others(run, tiny, tmp_path, stochastic):
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    evaluate.evaluate((str(run),), 3, stochastic)
    first = (run / "evaluation.json").read_bytes()
    torch.manual_seed(5)
    evaluate.evaluate((str(other), str(run)), 3, stochastic)
    assert (
        (run / "evaluation.json").read_bytes() == first == (other / "evaluation.json").read_bytes()
    )
    evaluate.evaluate((str(run),), 3, stochastic, seed=5)
    assert evaluation(run)["returns"] != json.loads(first)["returns"]


def test_sampling_is_not_the_mean(run):
    evaluate.evaluate((str(run),), 3, False)
    first = evaluation(run)["returns"]
    evaluate.evaluate((str(run),), 3, True)
    assert evaluation(run)["returns"] != first


@pytest.mark.parametrize("variant", VARIANTS)
def test_command_line_plays_a_run_of_each_script(variant, tmp_path):
    folder = train(variant, tmp_path / "run", "--env-id", "InvertedPendulum-v4", *TINY)
    done = start([ROOT / "evaluate.py", folder, "--episodes", "2"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = evaluation(folder)
    assert len(found["returns"]) == len(found["lengths"]) == 2
    assert found["mean"] == pytest.approx(np.mean(found["returns"]))
    assert found["std"] == pytest.approx(np.std(found["returns"]))
    assert (
        done.stdout
        == f"{folder}: return {found['mean']:.1f} +- {found['std']:.1f} over 2 episodes\n"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_nothing_is_played_before_all_runs_are_checked(run, tmp_path, capsys):
    assert "is not a folder" in refused(capsys, (str(run), str(tmp_path / "none")))
    (tmp_path / "empty").mkdir()
    assert "no result.json" in refused(capsys, (str(run), str(tmp_path / "empty")))
    assert not (run / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"episodes": 0}, "--episodes"), ({"seed": -1}, "--seed"), ({"runs": ()}, "at least one")],
)
def test_bad_arguments(run, capsys, arguments, named):
    assert named in refused(capsys, **({"runs": (str(run),)} | arguments))


@pytest.mark.parametrize("name", ["config.json", "result.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000, None]
)
def test_damaged_json(run, capsys, name, content):
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    message = refused(capsys, (str(run),))
    assert f"{run}/{name}" in message or (name == "result.json" and content is None)


@pytest.mark.parametrize("change", [{"env_id": "Hopper-v4"}, {"env_id": 3}, {"seed": 99}])
def test_foreign_config(run, capsys, change):
    config = json.loads((run / "config.json").read_text()) | change
    (run / "config.json").write_text(json.dumps(config))
    assert "not those of one run" in refused(capsys, (str(run),))


@pytest.mark.parametrize("env_id", ["Nope-v0", "no_module:X-v0", "a b", ":", "", "x:y:z-v0"])
def test_unknown_task(run, capsys, env_id):
    for name in ("config.json", "result.json"):
        values = json.loads((run / name).read_text()) | {"env_id": env_id}
        (run / name).write_text(json.dumps(values))
    assert "config.json names the task" in refused(capsys, (str(run),))


def test_damaged_agent(run, capsys):
    whole = (run / "agent.pt").read_bytes()
    rng = random.Random(1)
    bad = [
        None,
        b"",
        b"\x80",
        whole[:100],
        whole[:-1],
        pickle.dumps(print),
        b"PK\x03\x04" + b"0" * 99,
    ]
    bad += [whole[: rng.randrange(len(whole))] for _ in range(10)]
    for content in bad:
        (run / "agent.pt").unlink(missing_ok=True)
        if content is not None:
            (run / "agent.pt").write_bytes(content)
        assert f"{run}/agent.pt" in refused(capsys, (str(run),))


def test_one_changed_weight_or_a_foreign_agent(run, trained, capsys):
    state = torch.load(run / "agent.pt", weights_only=True)
    state["actor_logstd"][0] += 1e-3
    for content in (state, {}, [state], {"actor_logstd": 3}, torch.zeros(3)):
        torch.save(content, run / "agent.pt")
        assert f"{run}/agent.pt" in refused(capsys, (str(run),))
    shutil.copy(trained / "agent.pt", run / "agent.pt")
    assert "not an agent for InvertedPendulum-v4" in refused(capsys, (str(run),))


def test_video_without_moviepy_or_opengl(run, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)
    assert "pip install moviepy" in refused(capsys, (str(run),), capture_video=True)
    monkeypatch.setattr(evaluate, "find_spec", lambda name: True)
    monkeypatch.setenv("MUJOCO_GL", "wrong")
    message = refused(capsys, (str(run),), capture_video=True)
    assert "MUJOCO_GL=wrong" in message and "libegl1" in message and "libosmesa6" in message
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(evaluate.sys, "executable", shutil.which("false"))
    assert "libegl1" in refused(capsys, (str(run),), capture_video=True)
    assert not (run / "videos").exists() and not (run / "videos.tmp").exists()


@pytest.mark.parametrize("works", ["egl", "osmesa", "glfw"])
def test_the_first_opengl_that_works_is_taken(monkeypatch, works):
    tried = []

    def attempt(command, env, **kwargs):
        tried.append(env["MUJOCO_GL"])
        return subprocess.CompletedProcess(command, int(env["MUJOCO_GL"] != works))

    monkeypatch.setattr(evaluate, "find_spec", lambda name: True)
    monkeypatch.setattr(evaluate.subprocess, "run", attempt)
    monkeypatch.setenv("MUJOCO_GL", "")
    evaluate.prepare_video()
    assert os.environ["MUJOCO_GL"] == works == tried[-1]


@pytest.mark.skipif(not find_spec("moviepy"), reason="moviepy is not installed")
def test_film(run, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    (run / "videos").mkdir()
    (run / "videos" / "of-an-earlier-call.mp4").touch()
    done = start([ROOT / "evaluate.py", run, "--episodes", "2", "--capture-video"], run.parent)
    if "needs an OpenGL library" in done.stderr:
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


@pytest.mark.skipif(not find_spec("moviepy"), reason="moviepy is not installed")
@pytest.mark.parametrize("content", [None, b"", b"half a film"])
def test_a_film_that_is_not_whole_gets_no_final_name(run, capsys, content):
    (run / "videos.tmp").mkdir()
    if content is not None:
        (run / "videos.tmp/rl-video-episode-0.mp4").write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        evaluate.keep_films(str(run), [7])
    assert stopped.value.code == 1
    assert "0 of 8 frames: is the disk full?" in capsys.readouterr().err
    assert not (run / "videos").exists()


def test_a_film_follows_the_robot():
    env = evaluate.make_env("Hopper-v4", **evaluate.film("Hopper-v4"))
    renderer, model = env.unwrapped.mujoco_renderer, env.unwrapped.model
    assert renderer.camera_id == 0 and model.camera(0).name == "track"
    env.close()


def test_a_film_of_another_task_asks_for_no_camera():
    evaluate.make_env("Pendulum-v1", **evaluate.film("Pendulum-v1")).close()
