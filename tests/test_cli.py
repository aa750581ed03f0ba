"""What a user meets: help, bad input, what a run prints and leaves behind, how a run ends."""

import hashlib
import json
import re
import runpy
import shlex
import signal
import sys
import warnings
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import load, result, script, start

KLIP = load("klip")
QUICK = "--env-id Hopper-v4 --num-steps 64 --num-minibatches 2 --total-timesteps 192"

# what is wrong, and what the one line must say besides the argument's name
BAD = {
    "--env-id Walker2-v4": "Did you mean: `Walker2d`?",
    "--env-id nowhere:Hopper-v4": "ModuleNotFoundError",
    "--env-id CartPole-v1": "Box",
    "--num-minibatches 7": "64",
    "--num-minibatches 0": "1 or more",
    "--total-timesteps 63": "64",
    "--num-steps 0": "1 or more",
    "--total-timesteps 9 --num-steps 1 --num-minibatches 1": ">= 2",
    "--num-envs 0": "1 or more",
    "--update-epochs 0": "1 or more",
    "--seed 2147483648": "[0, 2^31)",
    "--learning-rate 0": "positive",
    "--learning-rate nan": "positive",
    "--gamma 1.01": "[0, 1]",
    "--gae-lambda -0.1": "[0, 1]",
    "--clip-coef 0": "(0, 1)",
    "--clip-coef 1": "(0, 1)",
    "--max-grad-norm 0": "positive",
    "--run-dir started": "started/config.json",
    "--run-dir a_file": "a_file",
    "--compile": "g++",
    "--cuda": "GPU",
    "--track": "pip install wandb",
    "--kl-coef -1": "positive",
    "--kl-coef 1e5 --kl-target 0.02": "1e4",
    "--kl-target nan": "positive",
}


class Odd(gym.Env):
    """Answers its 100th step, in the second rollout of 64, with what is wrong."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    open = 0

    def __init__(self, obs=1.0, reward=1.0, terminated=False, truncated=False, error=None):
        self.answers = [(1.0, 1.0, False, False)] * 99 + [(obs, reward, terminated, truncated)]
        self.error = error
        Odd.open += 1

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        obs, *rest = self.answers.pop(0) if self.answers else (1.0, 1.0, False, False)
        if not self.answers and self.error:
            raise self.error
        return np.float32([obs, len(self.answers)]), *rest, {}

    def close(self):
        Odd.open -= 1


gym.register("Odd-v0", entry_point=Odd)


@pytest.fixture
def folder(tmp_path):
    """A folder with a started run and a file."""
    (tmp_path / "started").mkdir()
    (tmp_path / "started" / "config.json").write_text("{}")
    (tmp_path / "a_file").write_text("")
    return tmp_path


@pytest.fixture
def program(monkeypatch, folder):
    """A function that runs a script as a program in that folder, though in this process."""
    handlers = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr("signal.signal", lambda *how: handlers.append(how))

    def run(variant: str, arguments: str) -> int:
        path = str(script(variant))
        monkeypatch.setattr(sys, "argv", [path, *shlex.split(arguments)])
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as stop:
            return stop.code
        finally:
            assert (signal.SIGINT, signal.SIG_DFL) in handlers, "Ctrl-C would print a traceback"
        return 0

    return run


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_gets_one_line(monkeypatch, capsys, program, folder, bad):
    """Of the scalar script, which has all arguments; and the folder stays as it was."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert program("kl_scalar", f"{QUICK} {bad}") == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert error.startswith("ppo_kl_scalar_continuous.py: error: ")
    assert bad.split()[0] in error and BAD[bad] in error
    assert {path.name for path in folder.rglob("*")} == {"started", "config.json", "a_file"}


def test_good_input_at_the_limits():
    scalar = load("kl_scalar")
    scalar.check(scalar.Args(seed=0, total_timesteps=2048, gamma=1, gae_lambda=0, kl_coef=1e5))
    scalar.check(scalar.Args(num_steps=2, num_minibatches=1, kl_coef=1e4, kl_target=0.02))


def test_help_shows_every_argument(capsys, program):
    assert program("kl_scalar", "--help") == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    comments = dict(re.findall(r"\n    (\w+): .* = .*  # (.*)", script("kl_scalar").read_text()))
    for field in fields(load("kl_scalar").Args):
        assert f"--{field.name.replace('_', '-')}" in words
        assert comments[field.name] in words, field.name


def test_what_a_run_leaves_and_prints(tmp_path):
    """HalfCheetah's own file would make MuJoCo warn; the one episode ends with the run."""
    how = "--env-id HalfCheetah-v4 --num-steps 100 --num-minibatches 2 --total-timesteps 1000"
    done = start([script("klip"), *how.split(), "--run-dir", "a run"], tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    [run_dir] = tmp_path.iterdir()
    names = sorted(path.name.split(".")[0] for path in run_dir.iterdir())
    assert names == ["agent", "config", "events", "result"]
    config, found = json.loads((run_dir / "config.json").read_text()), result(run_dir)
    more = {"global_step", "episodic_return", "weights_sha256", "kill_fraction"}
    assert found.keys() == config.keys() | more | {"sps", "wall_time_s"}
    assert config.items() <= found.items()
    assert config.keys() == vars(KLIP.Args()).keys() | {"env_spec_id", "versions"}
    saved = torch.load(run_dir / "agent.pt", weights_only=True)
    assert saved["global_step"] == found["global_step"] == 1000
    data = b"".join(tensor.numpy().tobytes() for tensor in saved["state_dict"].values())
    assert hashlib.sha256(data).hexdigest() == found["weights_sha256"]
    steps = "".join(rf"{100 * i}/1000 steps, \d+/s, return nan\n" for i in range(1, 10))
    score = found["episodic_return"]
    wanted = rf"""HalfCheetah-v4; watch: tensorboard --logdir 'a run'
{steps}1000/1000 steps, \d+/s, return {score:.1f}
episodic_return {score}, mean over the last 10 % of the steps
kill_fraction {found["kill_fraction"]:.3f}, the share of samples in the kill set
weights_sha256 {found["weights_sha256"]}
play it: python evaluate.py 'a run'
"""
    assert re.fullmatch(wanted, done.stdout)


@pytest.fixture
def args(tmp_path):
    """Of a run of one rollout."""
    args = KLIP.Args("Hopper", num_steps=64, num_minibatches=2, total_timesteps=64)
    args.run_dir = str(tmp_path / "run")
    return args


def test_train_from_python_more_than_once(args):
    """It returns what it writes, leaves its arguments alone, and says which version it trained."""
    before = replace(args)
    found = KLIP.train(args)
    assert found == result(Path(args.run_dir)) and found["env_spec_id"] == "Hopper-v5"
    assert args == before
    with pytest.raises(ValueError, match="--run-dir"):
        KLIP.train(args)


ODD = {
    "an observation": {"obs": np.nan},
    "an infinite observation": {"obs": -np.inf},
    "a truncated last observation": {"obs": np.nan, "truncated": True},
    "a reward": {"reward": np.nan},
    "an infinite reward": {"reward": np.inf},
    "a terminated last observation": {"obs": np.nan, "terminated": True},
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("what", ODD)
def test_what_a_task_may_not_return(monkeypatch, capsys, program, folder, what):
    """Of an episode that is terminated the last observation does not count."""
    monkeypatch.setitem(gym.registry["Odd-v0"].__dict__, "kwargs", ODD[what])
    code = program("klip", f"{QUICK} --env-id Odd-v0 --run-dir run")
    assert Odd.open == 0
    is_fine = what == "a terminated last observation"
    assert code == (0 if is_fine else 1)
    assert (folder / "run" / "result.json").exists() == is_fine
    if not is_fine:
        error = capsys.readouterr().err
        assert re.fullmatch(r"ppo_klip_continuous.py: error: .*Odd-v0.*\n", error)
        assert torch.load(folder / "run" / "agent.pt")["global_step"] == 64


def test_what_a_task_raises_keeps_its_traceback(monkeypatch, program):
    error = ConnectionResetError("simulator went away")
    monkeypatch.setitem(gym.registry["Odd-v0"].__dict__, "kwargs", {"error": error})
    with pytest.raises(ConnectionResetError, match="went away"):
        program("klip", f"{QUICK} --env-id Odd-v0 --total-timesteps 512 --num-envs 2 --run-dir run")
    assert Odd.open == 0


def test_weights_that_turn_nan_stop_the_run(capsys, program, folder):
    assert program("klip", f"{QUICK} --learning-rate 1e30 --run-dir run") == 1
    assert "error: NaN weights: --learning-rate too high" in capsys.readouterr().err
    assert {path.name[:6] for path in (folder / "run").iterdir()} == {"config", "events"}


def test_bounds_far_from_one_are_pointed_out(monkeypatch):
    monkeypatch.setitem(gym.registry["Odd-v0"].__dict__, "kwargs", {})
    for high, warned in ((100.0, True), (0.01, True), (2.0, False), (np.inf, False)):
        monkeypatch.setattr(Odd, "action_space", gym.spaces.Box(-high, high, (1,)))
        with warnings.catch_warnings(record=True) as caught:
            KLIP.make_env("Odd-v0").close()
        assert any("RescaleAction" in str(w.message) for w in caught) == warned


def test_a_tracked_run_is_mirrored_and_the_same(monkeypatch, args):
    """By a stand-in for wandb, which is not among the requirements."""
    told = {}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **how: told.update(how)))
    monkeypatch.setattr(KLIP, "find_spec", lambda name: True)
    tracked = replace(args, run_dir=f"{args.run_dir}-tracked", track=True)
    plain, mirrored = (KLIP.train(run)["weights_sha256"] for run in (args, tracked))
    assert plain == mirrored
    assert told["sync_tensorboard"] and told["project"] == "klip-ppo"
    assert told["config"]["seed"] == 1 and told["dir"] == tracked.run_dir
