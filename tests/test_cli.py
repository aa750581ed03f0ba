"""What a user meets: help, bad input, what a run prints and leaves behind, how a run ends."""

import ast
import hashlib
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import VARIANTS, load, result, script, start

KLIP = load("klip")
QUICK = "--env-id Hopper-v4 --num-steps 64 --num-minibatches 2 --total-timesteps 192"

# what is wrong, and what the one line must say besides the argument's name
BAD = {
    "--env-id Walker2-v4": "Did you mean: `Walker2d`?",
    "--env-id nowhere:Hopper-v4": "ModuleNotFoundError",
    "--env-id Mute-v0": "AssertionError()",
    "--env-id CartPole-v1": "Box",
    "--num-minibatches 7": "64",
    "--num-minibatches 0": "1 or more",
    "--total-timesteps 63": "64",
    "--num-steps 0": "1 or more",
    "--num-envs 0": "1 or more",
    "--update-epochs 0": "1 or more",
    "--seed -1": "[0, 2^31)",
    "--seed 2147483648": "[0, 2^31)",
    "--learning-rate 0": "positive",
    "--learning-rate nan": "positive",
    "--gamma 1.01": "[0, 1]",
    "--gamma nan": "[0, 1]",
    "--gae-lambda -0.1": "[0, 1]",
    "--clip-coef 0": "(0, 1)",
    "--clip-coef 1": "(0, 1)",
    "--max-grad-norm 0": "positive",
    "--run-dir started": "started/config.json",
    "--run-dir a_file": "a_file",
    "--run-dir /proc/nowhere": "/proc/nowhere",
    "--compile": "g++",
    "--cuda": "GPU",
    "--track": "pip install wandb",
    "--kl-coef -1": "positive",
    "--kl-coef nan": "positive",
    "--kl-coef 1e5 --kl-target 0.02": "1e4",
    "--kl-target nan": "positive",
}


class Odd(gym.Env):
    """Answers its 100th step, in the second rollout of 64, with what is wrong."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    open = 0

    def __init__(self, obs=1.0, reward=1.0, terminated=False, truncated=False, error=None):
        self.wrong = obs, reward, terminated, truncated
        self.error = error
        self.steps = 0
        Odd.open += 1

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        obs, reward, terminated, truncated = 1.0, 1.0, False, False
        if self.steps == 100:
            if self.error:
                raise self.error
            obs, reward, terminated, truncated = self.wrong
        return np.float32([obs, self.steps]), reward, terminated, truncated, {}

    def close(self):
        Odd.open -= 1


class Mute(Odd):
    """Cannot be made, and the exception says nothing."""

    def __init__(self):
        raise AssertionError


gym.register("Odd-v0", entry_point=Odd)
gym.register("Mute-v0", entry_point=Mute)


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
    monkeypatch.chdir(folder)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(variant: str, arguments: str) -> int:
        path = str(script(variant))
        monkeypatch.setattr(sys, "argv", [path, *shlex.split(arguments)])
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as stop:
            return stop.code
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
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert names == {"started", "started/config.json", "a_file"}


@pytest.mark.parametrize("bad", ["--env-i Hopper-v4", "--gamma much", "--num-steps 1.5"])
def test_what_the_parser_refuses(capsys, program, bad):
    assert program("klip", bad) == 2
    assert bad.split()[0] in capsys.readouterr().err


def test_good_input_at_the_limits():
    scalar = load("kl_scalar")
    scalar.check(scalar.Args(seed=0, total_timesteps=2048, gamma=1, gae_lambda=0, clip_coef=0.999))
    scalar.check(scalar.Args(num_steps=2, num_minibatches=1))
    scalar.check(scalar.Args(kl_coef=1e5))
    scalar.check(scalar.Args(kl_coef=1e4, kl_target=0.02))


@pytest.mark.parametrize("variant", VARIANTS)
def test_help_shows_every_argument(capsys, program, variant):
    assert program(variant, "--help") == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    pattern = re.compile(r"^    (\w+): .* = .*  # (.*)$", re.MULTILINE)
    comments = dict(pattern.findall(script(variant).read_text()))
    for field in fields(load(variant).Args):
        assert f"--{field.name.replace('_', '-')}" in words
        assert comments[field.name] in words, field.name


def test_what_a_run_leaves_and_prints(tmp_path):
    done = start([script("klip"), *QUICK.split(), "--run-dir", "a run"], tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    run_dir = tmp_path / "a run"
    events = [path.name for path in run_dir.glob("events.out.tfevents.*")]
    names = {path.name for path in run_dir.iterdir()}
    assert names == {*events, "config.json", "agent.pt", "result.json"} and len(events) == 1
    config, found = json.loads((run_dir / "config.json").read_text()), result(run_dir)
    more = {"global_step", "episodic_return", "weights_sha256", "kill_fraction"}
    assert found.keys() == config.keys() | more | {"sps", "wall_time_s"}
    assert config.items() <= found.items()
    assert config.keys() == vars(KLIP.Args()).keys() | {"env_spec_id", "versions"}
    saved = torch.load(run_dir / "agent.pt", weights_only=True)
    assert saved["global_step"] == found["global_step"] == 192
    data = b"".join(tensor.numpy().tobytes() for tensor in saved["state_dict"].values())
    assert hashlib.sha256(data).hexdigest() == found["weights_sha256"]
    wanted = rf"""Hopper-v4; watch: tensorboard --logdir 'a run'
64/192 steps, \d+/s, return \S+
128/192 steps, \d+/s, return \S+
192/192 steps, \d+/s, return \S+
episodic_return {found["episodic_return"]}, mean over the last 10 % of the steps
kill_fraction {found["kill_fraction"]:.3f}, the share of samples in the kill set
weights_sha256 {found["weights_sha256"]}
play it: python evaluate.py 'a run'
"""
    assert re.fullmatch(wanted, done.stdout)


def test_train_from_python_more_than_once(tmp_path):
    """It returns what it writes, leaves its arguments alone, and says which version it trained."""
    args = KLIP.Args("Hopper", num_steps=64, num_minibatches=2, total_timesteps=64)
    args.run_dir = str(tmp_path / "run")
    before = dict(vars(args))
    assert KLIP.train(args) == result(tmp_path / "run")
    assert vars(args) == before
    assert result(tmp_path / "run")["env_spec_id"] == "Hopper-v5"
    with pytest.raises(ValueError, match="--run-dir"):
        KLIP.train(args)


def test_two_threads_do_not_disturb_each_other(tmp_path):
    def train(name: str, seed: int) -> str:
        args = KLIP.Args("Hopper-v4", seed, num_steps=128, num_minibatches=2, total_timesteps=512)
        args.run_dir = str(tmp_path / name)
        return KLIP.train(args)["weights_sha256"]

    alone = [train("one", 1), train("two", 2)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(train, ["three", "four"], [1, 2])) == alone


ODD = {
    "an observation": {"obs": np.nan},
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
    if what == "a terminated last observation":
        assert code == 0
        return
    assert code == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"ppo_klip_continuous.py: error: .*Odd-v0", error)
    assert torch.load(folder / "run" / "agent.pt")["global_step"] == 64
    assert not (folder / "run" / "result.json").exists()


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


@pytest.mark.parametrize("variant", VARIANTS)
def test_imports(variant):
    """Nothing of the repository, and inside functions only what few runs need."""
    tree = ast.parse(script(variant).read_text())

    def imported(nodes) -> set[str]:
        names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
        names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        return {name.split(".")[0] for name in names} - sys.stdlib_module_names

    assert imported(tree.body) == {"torch", "gymnasium", "mujoco", "numpy", "tyro"}
    assert imported(ast.walk(tree)) - imported(tree.body) == {"wandb"}


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_ctrl_c_ends_a_run_in_silence(tmp_path):
    """What was saved along the way stays."""
    command = [sys.executable, script("klip"), *QUICK.split(), "--run-dir", "run"]
    process = subprocess.Popen(
        [*map(str, command), "--total-timesteps", "640000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.time() + 120
    while not (tmp_path / "run/agent.pt").exists() and time.time() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == -signal.SIGINT and stderr == ""
    assert torch.load(tmp_path / "run/agent.pt")["global_step"] % 64 == 0
    assert not (tmp_path / "run/result.json").exists()


@pytest.mark.skipif(not find_spec("wandb"), reason="wandb is not installed")
def test_tracking_offline_changes_no_weight(tmp_path):
    for folder, more in (("plain", []), ("tracked", ["--track"])):
        command = [script("klip"), *QUICK.split(), "--run-dir", folder, *more]
        done = start(command, tmp_path, WANDB_MODE="offline")
        assert done.returncode == 0, done.stderr
    hashes = {result(tmp_path / name)["weights_sha256"] for name in ("plain", "tracked")}
    assert len(hashes) == 1


# --- one hash on every x86-64 processor

CHOICES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_CBWR")
x86_64_linux = pytest.mark.skipif(
    sysconfig.get_platform() != "linux-x86_64", reason="the hash is that of x86-64 Linux"
)


@x86_64_linux
@pytest.mark.slow
@pytest.mark.parametrize("how", [[], ["--compile"]], ids=["eager", "compiled"])
def test_foreign_processors_give_the_same_hash(tmp_path, how):
    """Emulated; 512 steps. The control leaves the choice of kernels to the libraries."""
    qemu = shutil.which("qemu-x86_64")
    if not qemu:
        pytest.skip("needs qemu-x86_64 (Debian's qemu-user)")
    if how and not shutil.which("g++"):
        pytest.skip("--compile needs a C++ compiler")
    environment = {k: v for k, v in os.environ.items() if k not in CHOICES}
    environment["PYTHONPATH"] = sysconfig.get_path("purelib")
    python = os.path.realpath(sys.executable)
    quick = "--env-id Hopper-v4 --num-steps 256 --num-minibatches 4 --total-timesteps 512"

    def train(name: str, *processor: str, **more: str) -> str:
        command = [*processor, python, script("klip"), *quick.split(), *how, "--run-dir", name]
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / f"cache_{name}")}
        subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=environment | cache | more, check=True
        )
        return result(tmp_path / name)["weights_sha256"]

    with ThreadPoolExecutor(1) as pool:
        haswell = pool.submit(train, "haswell", qemu, "-cpu", "Haswell")
        native = train("native")
        assert haswell.result() == native
    if not how:
        assert train("rome", qemu, "-cpu", "EPYC-Rome") == native
        control = {"MKL_CBWR": "AUTO", "OPENBLAS_CORETYPE": ""}
        assert train("control", **control) != native


@x86_64_linux
def test_the_readmes_hash(tmp_path):
    """The one that README.md promises for the half-minute check."""
    readme = Path(script("klip").parent / "README.md").read_text()
    [promised] = set(re.findall(r"weights_sha256 ([0-9a-f]{64})", readme))
    environment = {k: v for k, v in os.environ.items() if k not in CHOICES}
    command = [sys.executable, script("klip"), "--env-id", "Hopper-v4", "--run-dir", "run"]
    command += ["--total-timesteps", "20480"]
    subprocess.run(list(map(str, command)), cwd=tmp_path, env=environment, check=True)
    assert result(tmp_path / "run")["weights_sha256"] == promised
