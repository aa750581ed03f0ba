"""evaluate.py: what it plays, what it refuses, what it films."""

import json
import os
import shutil
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, script, start

import evaluate

needs_moviepy = pytest.mark.skipif(not find_spec("moviepy"), reason="moviepy is not installed")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two rollouts on Hopper-v4."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    length = ["--env-id", "Hopper-v4", "--total-timesteps", "4096"]
    done = start([script("kl_scalar"), "--run-dir", folder, *length], folder.parent)
    assert done.returncode == 0, done.stderr
    return folder


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
    torch.save({"global_step": 64, "state_dict": agent.state_dict()}, folder / "agent.pt")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps(config | result))
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "run")


def evaluation(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def refused(capsys, *args, code: int = 2, **kwargs) -> str:
    """The one line that evaluate prints when it exits."""
    with pytest.raises(SystemExit) as stopped:
        evaluate.evaluate(*args, **kwargs)
    out, err = capsys.readouterr()
    assert stopped.value.code == code and out == ""
    assert err.count("\n") == 1 and err.startswith("evaluate.py: error: "), err
    return err


def numpy_returns(state: dict, mean: np.ndarray, std: np.ndarray) -> list[float]:
    """Returns of Hopper-v4's mean policy from seeds 7 and 8, written independently."""
    weights = {name: tensor.numpy() for name, tensor in state.items()}
    env = gym.make("Hopper-v4")
    returns = []
    for seed in (7, 8):
        obs, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            x = ((obs - mean) / std).clip(-10, 10)
            for i in (0, 2, 4):
                x = weights[f"actor_mean.{i}.weight"] @ x + weights[f"actor_mean.{i}.bias"]
                x = x if i == 4 else np.tanh(x)
            obs, reward, terminated, truncated, _ = env.step(x.clip(-1, 1).astype(np.float32))
            total += reward
            done = terminated or truncated
        returns.append(total)
    return returns


def test_it_plays_the_mean_action_of_the_saved_network(trained):
    command = [ROOT / "evaluate.py", trained, "--episodes", "2", "--seed", "7"]
    done = start(command, trained.parent)
    assert (done.returncode, done.stderr) == (0, "")
    found = evaluation(trained)
    state = torch.load(trained / "agent.pt", weights_only=True)["state_dict"]
    mean, std = state["obs_mean"].numpy(), state["obs_std"].numpy()
    assert found["returns"] == pytest.approx(numpy_returns(state, mean, std), rel=1e-3)
    without = numpy_returns(state, np.zeros_like(mean), np.ones_like(mean))
    assert found["returns"] != pytest.approx(without, rel=0.02)
    result = json.loads((trained / "result.json").read_text())
    assert found["weights_sha256"] == result["weights_sha256"]
    assert found["global_step"] == 4096 and found["finished"]
    assert found["mean"] == np.mean(found["returns"]) and found["std"] == np.std(found["returns"])
    score = f"return {found['mean']:.1f} +- {found['std']:.1f} over 2 episodes"
    assert done.stdout == f"{trained}: {score}\n"


@pytest.mark.parametrize("stochastic", [False, True])
def test_same_call_same_numbers_alone_or_with_others(run, tmp_path, stochastic):
    other = make_run(tmp_path / "other", bias=0.5)
    evaluate.evaluate((str(run),), episodes=2, stochastic=stochastic)
    alone = evaluation(run)
    evaluate.evaluate((str(other), str(run), f"{run}/"), episodes=2, stochastic=stochastic)
    assert evaluation(run) == alone


def test_samples_differ_from_the_mean_and_follow_the_seed(run):
    """Not only where an episode starts, but the noise as well."""
    made, returns = [], {}

    class SameStart(gym.Wrapper):
        def reset(self, *, seed=None, options=None):
            made.append(seed)
            return self.env.reset(seed=0)

    with pytest.MonkeyPatch.context() as patch:
        make_env = evaluate.make_env
        patch.setattr(evaluate, "make_env", lambda *a, **k: SameStart(make_env(*a, **k)))
        for name, how in {"mean": {}, "one": {"seed": 1}, "two": {"seed": 2}}.items():
            evaluate.evaluate((str(run),), episodes=3, stochastic=name != "mean", **how)
            returns[name] = evaluation(run)["returns"]
    assert made == [*range(1_000_000, 1_000_003), 1, 2, 3, 2, 3, 4]
    assert len({tuple(x) for x in returns.values()}) == 3 and len(set(returns["mean"])) == 1


def test_an_unfinished_run_is_played_and_called_so(run, capsys):
    (run / "result.json").unlink()
    evaluate.evaluate((str(run),), episodes=1)
    assert capsys.readouterr().out.endswith("unfinished: 64 of 100 steps\n")
    assert not evaluation(run)["finished"]


def test_nothing_is_played_before_all_runs_are_checked(run, tmp_path, capsys):
    refused(capsys, (str(run), str(tmp_path / "nothing")))
    assert not (run / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"episodes": 0}, "--episodes"),
        ({"seed": -1}, "--seed"),
        ({"max_steps": 0}, "--max-steps"),
    ],
)
def test_bad_arguments(run, capsys, arguments, named):
    assert named in refused(capsys, (str(run),), **arguments)
    assert "run folder" in refused(capsys, ())


@pytest.mark.parametrize("env_id", ["Nope-v0", "no_module:X-v0", "CartPole-v1", "", 3])
def test_unknown_task(run, capsys, env_id):
    (run / "config.json").write_text(json.dumps({"env_id": env_id}))
    assert "--env-id" in refused(capsys, (str(run),))


@pytest.mark.parametrize("text", ["", "[1", "[1, 2]", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_damaged_json(run, capsys, name, text):
    (run / name).write_text(text)
    assert name in refused(capsys, (str(run),))


def test_files_of_several_runs(run, capsys):
    found = json.loads((run / "result.json").read_text())
    for name, value in {"weights_sha256": "0", "global_step": 65, "seed": 2}.items():
        (run / "result.json").write_text(json.dumps(found | {name: value}))
        assert "not those of one run" in refused(capsys, (str(run),))


class Malicious:
    """An object that runs code when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_damaged_and_foreign_agents(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = torch.load(run / "agent.pt", weights_only=True)
    nan = saved["state_dict"] | {"actor_logstd": torch.tensor([np.nan])}
    torch.save(saved | {"state_dict": nan}, run / "agent.pt")
    assert "NaN" in refused(capsys, (str(run),))
    foreign = make_run(tmp_path / "hopper", "Hopper-v4")
    shutil.copy(foreign / "agent.pt", run)
    assert "damaged" in refused(capsys, (str(run),))
    torch.save(saved | {"more": Malicious()}, run / "agent.pt")
    assert "damaged" in refused(capsys, (str(run),))
    assert not (tmp_path / "ran").exists(), "an agent.pt has run code"
    (run / "agent.pt").write_bytes(b"PK")
    assert "damaged" in refused(capsys, (str(run),))
    (run / "agent.pt").unlink()
    assert "agent.pt cannot be read" in refused(capsys, (str(run),))


class Own(gym.Env):
    """Raises, never ends, returns NaN or draws nothing, as its argument says."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Box(-1, 1, ())

    def __init__(self, what="", render_mode=None):
        self.what, self.render_mode = what, render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        if self.what == "raises":
            raise ConnectionResetError("simulator went away")
        reward = np.nan if self.what == "nan" else 1.0
        return np.zeros(3, np.float32), reward, self.what != "never", False, {}

    def render(self):
        return None


for what in ("raises", "never", "nan", "draws-nothing"):
    gym.register(f"Own-{what}-v0", entry_point=Own, kwargs={"what": what})


def own(folder: Path, what: str) -> tuple[str]:
    """A run of that task, whose actions have no dimensions."""
    env_id = f"Own-{what}-v0"
    folder.mkdir()
    agent = evaluate.Agent(3, 1)
    torch.save({"global_step": 1, "state_dict": agent.state_dict()}, folder / "agent.pt")
    (folder / "config.json").write_text(json.dumps({"env_id": env_id, "total_timesteps": 1}))
    return (str(folder),)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_a_task_does(tmp_path, capsys):
    with pytest.raises(ConnectionResetError):
        evaluate.evaluate(own(tmp_path / "a", "raises"))
    never = own(tmp_path / "b", "never")
    assert "--max-steps 50" in refused(capsys, never, max_steps=50, code=1)
    assert "return of nan" in refused(capsys, own(tmp_path / "c", "nan"), code=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "find_spec", lambda name: True)
        drawn = refused(capsys, own(tmp_path / "d", "draws-nothing"), capture_video=True)
    assert "render() returns None" in drawn
    assert not [*tmp_path.glob("*/evaluation.json")]


def test_video_without_moviepy(run, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)
    assert "pip install moviepy" in refused(capsys, (str(run),), capture_video=True)


@needs_moviepy
@pytest.mark.slow
def test_film(run):
    """In a process of its own, without a screen; nothing else is left behind."""
    command = [ROOT / "evaluate.py", run, "--capture-video", "--episodes", "2"]
    done = start(command, run.parent, DISPLAY="")
    if "OpenGL" in done.stderr:
        pytest.skip("no OpenGL here")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (run / "videos").iterdir())
    assert names == ["rl-video-episode-0.mp4", "rl-video-episode-1.mp4"]
    assert not (run.parent / "MUJOCO_LOG.TXT").exists()


def test_the_first_opengl_that_works_is_taken(monkeypatch):
    class Tried:
        def __init__(self, command, env, **_):
            self.returncode = env["MUJOCO_GL"] != "osmesa"

    monkeypatch.setattr(evaluate.subprocess, "run", Tried)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    evaluate.choose_opengl()
    assert os.environ.pop("MUJOCO_GL") == "osmesa"
