"""evaluate.py: what it plays, what it refuses, what it films."""

import json
import math
import os
import runpy
import shutil
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, load, start

import evaluate

needs_moviepy = pytest.mark.skipif(not find_spec("moviepy"), reason="moviepy is not installed")


def make_run(
    folder: Path, env_id: str = "InvertedPendulum-v4", bias: float = 0.0, logstd: float = 0.0
) -> Path:
    """The files of a finished run of 64 steps whose agent is new but for the given."""
    env = evaluate.make_env(env_id)
    torch.manual_seed(1)
    agent = evaluate.Agent(env.observation_space.shape[0], math.prod(env.action_space.shape))
    agent.actor_mean[0].bias.data[0] = bias
    agent.actor_logstd.data[:] = logstd
    weights = b"".join(tensor.numpy().tobytes() for tensor in agent.state_dict().values())
    config = {"env_id": env_id, "seed": 1, "total_timesteps": 100}
    made = {"global_step": 64, "weights_sha256": sha256(weights).hexdigest()}
    folder.mkdir()
    torch.save({"global_step": 64, "state_dict": agent.state_dict()}, folder / "agent.pt")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps(config | made))
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "run")


def evaluation(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def play(*runs: Path, **arguments) -> None:
    evaluate.evaluate(evaluate.Args(tuple(map(str, runs)), **arguments))


def refused(*runs: Path, error=evaluate.ArgumentError, **arguments) -> str:
    """The message with which runs are not played."""
    with pytest.raises(error) as raised:
        play(*runs, **arguments)
    return str(raised.value)


def numpy_returns(state: dict) -> list[float]:
    """Returns of Hopper-v4's mean policy from seeds 7 and 8, written independently."""
    weights = {name: tensor.numpy() for name, tensor in state.items()}
    env = gym.make("Hopper-v4")
    returns = []
    for seed in (7, 8):
        obs, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            x = ((obs - weights["obs_mean"]) / weights["obs_std"]).clip(-10, 10)
            for i in (0, 2, 4):
                x = weights[f"actor_mean.{i}.weight"] @ x + weights[f"actor_mean.{i}.bias"]
                x = x if i == 4 else np.tanh(x)
            obs, reward, terminated, truncated, _ = env.step(x.clip(-1, 1).astype(np.float32))
            total += reward
            done = terminated or truncated
        returns.append(total)
    return returns


def main(*arguments) -> None:
    """`python evaluate.py arguments...`, in this process."""
    argv = ["evaluate.py", *map(str, arguments)]
    with mock.patch("sys.argv", argv), mock.patch("signal.signal"):
        runpy.run_path(str(ROOT / "evaluate.py"), run_name="__main__")


def test_it_plays_the_mean_action_of_the_saved_network(tmp_path, capsys):
    """Of a run of the scalar script, which has the same agent as the others."""
    trained = tmp_path / "run"
    scalar = load("kl_scalar")
    args = scalar.Args("Hopper-v4", num_steps=512, num_minibatches=8, total_timesteps=1024)
    args.learning_rate, args.run_dir = 3e-3, str(trained)
    result = scalar.train(args)
    capsys.readouterr()
    main(trained, "--episodes", 2, "--seed", 7)
    found = evaluation(trained)
    state = torch.load(trained / "agent.pt", weights_only=True)["state_dict"]
    assert found["returns"] == pytest.approx(numpy_returns(state), rel=1e-3)
    assert found["weights_sha256"] == result["weights_sha256"]
    assert found["global_step"] == 1024 and found["finished"]
    mean, std = np.mean(found["returns"]), np.std(found["returns"])
    assert (found["mean"], found["std"]) == (mean, std)
    said = f"{trained}: return {mean:.1f} +- {std:.1f} over 2 episodes\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("stochastic", [False, True])
def test_same_call_same_numbers_alone_or_with_others(run, tmp_path, capsys, stochastic):
    other = make_run(tmp_path / "other", bias=0.5)
    play(run, episodes=2, stochastic=stochastic)
    alone = evaluation(run)
    play(other, run, f"{run}/", episodes=2, stochastic=stochastic)
    assert evaluation(run) == alone
    assert capsys.readouterr().out.count("\n") == 3, "a folder named twice is played twice"


def test_samples_differ_from_the_mean_and_follow_the_seed(run, monkeypatch):
    """The noise does, not only the state an episode starts from."""
    seeds, returns = [], []

    class SameStart(gym.Wrapper):
        def reset(self, *, seed=None, options=None):
            seeds.append(seed)
            return self.env.reset(seed=0)

    make_env = evaluate.make_env
    monkeypatch.setattr(evaluate, "make_env", lambda *a, **k: SameStart(make_env(*a, **k)))
    for stochastic, seed in ((False, 1), (True, 1), (True, 2)):
        play(run, episodes=3, stochastic=stochastic, seed=seed)
        returns.append(tuple(evaluation(run)["returns"]))
    assert seeds == [1, 2, 3, 1, 2, 3, 2, 3, 4]
    assert len(set(returns[0])) == 1 and len(set(returns)) == 3


def test_samples_of_an_unfinished_run_without_noise_are_its_mean(tmp_path, capsys):
    quiet = make_run(tmp_path / "quiet", bias=0.5, logstd=-100.0)
    (quiet / "result.json").unlink()
    play(quiet, stochastic=True)
    sampled = evaluation(quiet)
    play(quiet)
    assert evaluation(quiet)["returns"] == sampled["returns"] and not sampled["finished"]
    assert capsys.readouterr().out.endswith(", unfinished: 64 of 100 steps\n")


@pytest.mark.parametrize(("option", "code"), [("--episodes=0", 2), ("--max-steps=1", 1)])
def test_an_error_is_one_line_and_an_exit_code(run, capsys, option, code):
    with pytest.raises(SystemExit) as stopped:
        main(run, option)
    out, err = capsys.readouterr()
    assert stopped.value.code == code and out == "" and err.count("\n") == 1
    assert err.startswith("evaluate.py: error: ") and option.split("=")[0] in err


def test_nothing_is_played_before_all_is_checked(run, tmp_path, monkeypatch):
    assert "nothing: config.json" in refused(run, tmp_path / "nothing")
    assert "--seed" in refused(run, seed=-1)
    assert "--max-steps" in refused(run, max_steps=0)
    assert "run folder" in refused()
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)
    assert "pip install moviepy" in refused(run, capture_video=True)
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    assert "cannot be written" in refused(run)
    assert not (run / "evaluation.json").exists()


def test_unknown_task(run):
    for env_id in ("Nope-v0", "CartPole-v1", 3):
        (run / "config.json").write_text(json.dumps({"env_id": env_id}))
        assert f"{run}: --env-id" in refused(run)


def test_damaged_json_and_files_of_several_runs(run):
    found = json.loads((run / "result.json").read_text())
    for name, value in {"weights_sha256": "0", "global_step": 65, "seed": 2}.items():
        (run / "result.json").write_text(json.dumps(found | {name: value}))
        assert "not those of one run" in refused(run)
    for name in ("result.json", "config.json"):
        for text in ("[1", "[1, 2]", "[" * 100_000):
            (run / name).write_text(text)
            assert f"{run}: {name} cannot be read" in refused(run)


class Malicious:
    """An object that runs code when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_damaged_and_foreign_agents(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = torch.load(run / "agent.pt", weights_only=True)
    nan = saved["state_dict"] | {"actor_logstd": torch.tensor([np.nan])}
    torch.save(saved | {"state_dict": nan}, run / "agent.pt")
    assert "NaN" in refused(run)
    foreign = make_run(tmp_path / "hopper", "Hopper-v4")
    shutil.copy(foreign / "agent.pt", run)
    assert "damaged" in refused(run)
    torch.save(saved | {"more": Malicious()}, run / "agent.pt")
    assert "damaged" in refused(run)
    assert not (tmp_path / "ran").exists(), "an agent.pt has run code"
    (run / "agent.pt").write_bytes(b"PK")
    assert "damaged" in refused(run)
    (run / "agent.pt").unlink()
    assert "agent.pt cannot be read" in refused(run)


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
        assert action.shape == () and action.dtype == np.float32
        if self.what == "raises":
            raise ConnectionResetError("simulator went away")
        reward = np.nan if self.what == "nan" else 1.0
        return np.zeros(3, np.float32), reward, self.what != "never", False, {}

    def render(self):
        return None


OWN = ("raises", "never", "nan", "draws-nothing")
for what in OWN:
    gym.register(f"Own-{what}", entry_point=Own, kwargs={"what": what})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_a_task_does(tmp_path, monkeypatch):
    own = {what: make_run(tmp_path / what, f"Own-{what}") for what in OWN}
    with pytest.raises(ConnectionResetError):
        main(own["raises"])
    never = refused(own["never"], max_steps=50, error=evaluate.PlayError)
    assert f"{own['never']}: " in never and "--max-steps 50" in never
    assert "return of nan" in refused(own["nan"], error=evaluate.PlayError)
    monkeypatch.setattr(evaluate, "find_spec", lambda name: True)
    assert "returned None" in refused(own["draws-nothing"], capture_video=True)
    assert not [*tmp_path.glob("*/evaluation.json")]


@needs_moviepy
@pytest.mark.slow
def test_film(run, tmp_path):
    """In a process of its own, without a screen; nothing else is left behind."""
    evaluate.choose_opengl()
    if not os.environ.pop("MUJOCO_GL", None):
        pytest.skip("no OpenGL here")
    command = [ROOT / "evaluate.py", run, "--capture-video", "--episodes", "2"]
    done = start(command, tmp_path, DISPLAY="")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (run / "videos").iterdir())
    assert names == ["rl-video-episode-0.mp4", "rl-video-episode-1.mp4"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("works", ["osmesa", None])
def test_the_first_opengl_that_works_is_taken(works):
    chosen = {}
    tried = lambda *_, **__: SimpleNamespace(returncode=chosen["MUJOCO_GL"] != works)
    with mock.patch("os.environ", chosen), mock.patch("subprocess.run", tried):
        evaluate.choose_opengl()
    assert chosen.get("MUJOCO_GL") == works
