"""What a user meets at the command line: help, bad input, what a run prints and leaves behind."""

import ast
import hashlib
import importlib.util
import json
import os
import platform
import re
import runpy
import shlex
import sys
import threading
from dataclasses import asdict, fields

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import VARIANTS, load, needs_compiler, result, script, start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

KLIP = load("klip")
QUICK = "--env-id Hopper-v4 --num-steps 64 --num-minibatches 2 --total-timesteps 192"
HUGE = 10**13

# what is wrong, and what the one line must say besides the argument's name
BAD = {
    "--env-id Walker2-v4": "Did you mean: `Walker2d`?",
    "--env-id Hopper-v99": "`v4`",
    "--env-id nowhere:Hopper-v4": "nowhere",
    "--env-id .foo:Hopper-v4": ".foo",
    "--env-id 'Hopper-v4\n'": "spaces",
    "--env-id CartPole-v1": "Box",
    "--env-id FrozenLake-v1": "Box",
    "--num-minibatches 7": "64",
    "--num-minibatches 128": "64",
    "--num-minibatches 0": "at least 1",
    "--total-timesteps 63": "64",
    "--num-steps 0": "at least 1",
    "--num-steps 1 --num-minibatches 1": "at least 2",
    f"--num-steps {HUGE} --total-timesteps {HUGE}": "too much memory",
    "--num-envs 0": "at least 1",
    "--update-epochs 0": "at least 1",
    "--seed -1": "[0, 2^31)",
    "--learning-rate 0": "positive",
    "--learning-rate nan": "positive",
    "--learning-rate inf": "positive",
    "--gamma 1.01": "[0, 1]",
    "--gamma -0.1": "[0, 1]",
    "--gamma nan": "[0, 1]",
    "--gae-lambda 1.5": "[0, 1]",
    "--clip-coef 0": "(0, 1)",
    "--clip-coef 1": "(0, 1)",
    "--ent-coef -1": "0 or more",
    "--vf-coef nan": "0 or more",
    "--max-grad-norm 0": "positive",
    "--target-kl 0": "positive",
    "--exp-name ''": "letters",
    "--exp-name ../../x": "letters",
    "--run-dir ''": "empty",
    "--run-dir started": "started",
    "--run-dir a_file": "a_file",
    "--run-dir a_file/below": "a_file",
    "--run-dir /proc/nowhere": "/proc/nowhere",
    "--compile": "g++",
    "--cuda": "GPU",
    "--kl-coef -1": "positive",
    "--kl-coef 1e5 --kl-target 0.02": "1e4",
    "--kl-target nan": "positive",
    "--seed 2147483648": "[0, 2^31)",
    "--gae-lambda -0.1": "[0, 1]",
    "--ent-coef inf": "0 or more",
    "--vf-coef -1": "0 or more",
    "--kl-coef 0": "positive",
    "--kl-coef 1e-5 --kl-target 0.02": "1e4",
}


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
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # put back at the end

    def run(variant: str, arguments: str) -> int:
        path = str(script(variant))
        monkeypatch.setattr(sys, "argv", [path, *shlex.split(arguments)])
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as stop:
            return stop.code
        return 0

    return run


def is_refused(code: int, out: str, error: str, folder, bad: str) -> bool:
    """Whether a command said what is wrong in one line and left the folder as it was."""
    assert code == 2, error
    assert out == "" and error.count("\n") == 1
    assert error.startswith("ppo_kl_scalar_continuous.py: error: ")
    assert bad.split()[0] in error and BAD[bad] in error
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return names == {"started", "started/config.json", "a_file"}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_gets_one_line(monkeypatch, capsys, program, folder, bad):
    """Of the scalar script, which has all arguments."""
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code = program("kl_scalar", f"{QUICK} {bad}")
    assert is_refused(code, *capsys.readouterr(), folder, bad)


def test_bad_input_in_a_process_of_its_own(folder):
    bad = "--run-dir a_file"
    done = start([script("kl_scalar"), *QUICK.split(), *bad.split()], folder)
    assert is_refused(done.returncode, done.stdout, done.stderr, folder, bad)


@pytest.mark.parametrize("bad", ["--env-i Hopper-v4", "--gamma much", "--num-steps 1.5"])
def test_what_the_parser_refuses(capsys, program, bad):
    assert program("klip", bad) == 2
    assert bad.split()[0] in capsys.readouterr().err


def test_track_without_wandb(monkeypatch, capsys):
    monkeypatch.setattr(KLIP, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        KLIP.check(KLIP.Args(track=True))
    assert re.fullmatch(r".*error: --track .*pip install wandb\n", capsys.readouterr().err)


@needs_compiler
def test_compile_without_the_header_of_python(monkeypatch, capsys):
    KLIP.check(KLIP.Args(compile=True))
    monkeypatch.setattr("sysconfig.get_path", lambda name: "/nowhere")
    with pytest.raises(SystemExit, match="2"):
        KLIP.check(KLIP.Args(compile=True))
    assert re.fullmatch(r".*error: --compile .*Python.h.*\n", capsys.readouterr().err)


def test_good_input_at_the_limits():
    scalar = load("kl_scalar")
    scalar.check(scalar.Args(seed=0, total_timesteps=2048, gamma=1, gae_lambda=0, clip_coef=0.999))
    scalar.check(scalar.Args(num_steps=2, num_minibatches=1, ent_coef=0, vf_coef=0))
    scalar.check(scalar.Args(kl_coef=1e5))
    scalar.check(scalar.Args(kl_coef=1e4, kl_target=0.02))


@pytest.mark.parametrize("variant", VARIANTS)
def test_help_says_which_loss_this_is_and_shows_every_argument(
    monkeypatch, capsys, program, variant
):
    monkeypatch.setenv("COLUMNS", "80")
    assert program(variant, "--help") == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines() if line[:1] in "│╭╰")
    words = " ".join(text.replace("│", " ").split())
    module = load(variant)
    assert module.loss_in_words() in words
    pattern = re.compile(r"^    (\w+): .* = .*  # (.*)$", re.MULTILINE)
    comments = dict(pattern.findall(script(variant).read_text()))
    for field in fields(module.Args):
        assert f"--{field.name.replace('_', '-')}" in words
        assert comments[field.name] in words, field.name


MANY_THINGS = """
import runpy, sys
for stem in {stems}:
    __import__(stem)
runpy.run_path({path!r}, run_name="__main__")
open("modules", "w").write(" ".join(sys.modules))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run of klip in `run`, and what it printed.

    Its process has imported all scripts before, and names the modules which it has loaded.
    """
    folder = tmp_path_factory.mktemp("finished")
    stems = [script(variant).stem for variant in VARIANTS]
    code = MANY_THINGS.format(stems=stems, path=str(script("klip")))
    command = ["-c", code, *QUICK.split(), "--run-dir", "run"]
    return folder, start(command, folder, PYTHONPATH=str(script("klip").parent))


def test_what_a_run_leaves(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    run_dir = folder / "run"
    events = [path.name for path in run_dir.glob("events.out.tfevents.*")]
    names = {path.name for path in run_dir.iterdir()}
    assert names == {*events, "config.json", "agent.pt", "result.json"} and len(events) == 1
    assert {path.name for path in folder.iterdir()} == {"run", "modules"}

    config = json.loads((run_dir / "config.json").read_text())
    assert config.keys() == asdict(KLIP.Args()).keys() | {"device", "versions"}
    assert config["device"] == "cpu"
    packages = {"torch", "gymnasium", "mujoco", "numpy"}
    assert config["versions"].keys() == packages | {"python", "cpu", "script"}
    assert config["versions"]["cpu"] == KLIP.cpu_kind()
    machine, _, *kind = KLIP.cpu_kind().split()
    assert machine == platform.machine()
    assert len(kind) == 2 or sys.platform != "linux"  # family and model
    source = script("klip").read_bytes()
    assert config["versions"]["script"] == hashlib.sha256(source).hexdigest()
    more = {"global_step", "episodic_return", "weights_sha256", "kill_fraction"}
    assert result(run_dir).keys() == config.keys() | more | {"sps", "wall_time_s"}
    assert config.items() <= result(run_dir).items()

    saved = torch.load(run_dir / "agent.pt", weights_only=True)
    assert saved["global_step"] == result(run_dir)["global_step"] == 192
    data = b"".join(tensor.numpy().tobytes() for tensor in saved["state_dict"].values())
    assert hashlib.sha256(data).hexdigest() == result(run_dir)["weights_sha256"]


def test_tensorboard_has_the_hyperparameters_under_text(finished):
    folder, _ = finished
    [text] = EventAccumulator(str(folder / "run")).Reload().Tensors("hyperparameters/text_summary")
    table = text.tensor_proto.string_val[0].decode().splitlines()
    config = json.loads((folder / "run/config.json").read_text())
    assert table == ["|argument|value|", "|-|-|", *[f"|{k}|{v}|" for k, v in config.items()]]


def test_what_a_run_prints(finished):
    """Progress on stderr, the rest on stdout, and no warning."""
    folder, done = finished
    done_by = result(folder / "run")
    wanted = f"""PPO, {re.escape(KLIP.loss_in_words())}
Hopper-v4, seed 1, cpu; watch: tensorboard --logdir run
finished in 0 min \\d+ s
return \\d+, mean over the last 10 % of the steps
kill_fraction {done_by["kill_fraction"]:.3f}, the share of samples in the kill set
weights_sha256 {done_by["weights_sha256"]}
play it with: python evaluate.py run
"""
    assert re.fullmatch(wanted, done.stdout)
    progress = [rf"{step}/192 steps, \d+ steps/s\n" for step in (64, 128, 192)]
    assert re.fullmatch("".join(progress), done.stderr)


def test_only_compile_loads_the_compiler(finished):
    """70 MB and most of a second; torch.optim.Adam would load it, too."""
    loaded = (finished[0] / "modules").read_text().split()
    assert importlib.util.find_spec("torch._dynamo")
    assert "torch.optim.adam" in loaded and "torch._dynamo" not in loaded


def test_no_return_if_no_episode_ended(tmp_path, capsys):
    args = KLIP.Args(num_steps=64, total_timesteps=64, run_dir=str(tmp_path / "run"))
    KLIP.train(args)
    assert result(tmp_path / "run")["episodic_return"] is None
    assert "return: no episode ended in the last 10 % of the steps\n" in capsys.readouterr().out


class Odd(gym.Env):
    """Answers its 100th step, in the second rollout of 64, with what is wrong."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, obs: float = 1.0, reward: float = 1.0, terminated=False, truncated=False):
        self.wrong = obs, reward, terminated, truncated
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        obs, reward, terminated, truncated = 1.0, 1.0, False, False
        if self.steps == 100:
            obs, reward, terminated, truncated = self.wrong
        return np.float32([obs, self.steps]), reward, terminated, truncated, {}


ODD = {
    "an observation": {"obs": np.nan},
    "a truncated last observation": {"obs": np.nan, "truncated": True},
    "a reward": {"reward": np.nan},
    "an infinite reward": {"reward": np.inf},
    "a reward too large to square": {"reward": 1e200},
    "a terminated last observation": {"obs": np.nan, "terminated": True},
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("what", ODD)
def test_what_a_task_may_not_return(monkeypatch, capsys, program, folder, what):
    """Of an episode that is terminated the last observation does not count."""
    monkeypatch.setitem(gym.registry, "Odd-v0", gym.envs.registration.EnvSpec("Odd-v0", Odd))
    gym.registry["Odd-v0"].kwargs.update(ODD[what])
    # normalised, all advantages would become NaN with one
    code = program("klip", f"{QUICK} --env-id Odd-v0 --run-dir run --no-norm-adv")
    error = [line for line in capsys.readouterr().err.splitlines() if " steps, " not in line]
    if what == "a terminated last observation":
        assert (code, error) == (0, [])
        return
    assert code == 1 and len(error) == 1
    assert "Odd-v0 returned NaN, infinity or rewards too large to square" in error[0]
    assert torch.load(folder / "run" / "agent.pt")["global_step"] == 64  # at once, that is
    assert not (folder / "run" / "result.json").exists()


def test_weights_that_turn_nan_stop_the_run(capsys, program, folder):
    assert program("klip", f"{QUICK} --learning-rate 1e30 --run-dir run") == 1
    assert re.fullmatch(r".*error: .*: lower --learning-rate\n", capsys.readouterr().err)
    assert {path.name[:6] for path in (folder / "run").iterdir()} == {"config", "events"}


def test_the_default_run_folder(monkeypatch, tmp_path):
    """Of what would be folders in a task's name, none are made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(KLIP.time, "time", lambda: 1000.9)
    args = KLIP.Args(env_id="task/set:Name-v0", seed=7, exp_name="a_b.c=+-1")
    run_dir, _, writer = KLIP.start_run(args)
    writer.close()
    assert run_dir == "runs/task_set_Name-v0__a_b.c=+-1__7__1000"
    assert (tmp_path / run_dir / "config.json").exists()


def test_of_two_runs_in_one_folder_the_second_is_refused(monkeypatch, tmp_path, capsys):
    """Here another run is faster, by the moment between making the folder and writing into it."""
    makedirs = KLIP.os.makedirs

    def another_run_is_faster(path, **kwargs):
        makedirs(path, **kwargs)
        (tmp_path / "config.json").write_text("the other's")

    monkeypatch.setattr(KLIP.os, "makedirs", another_run_is_faster)
    with pytest.raises(SystemExit, match="2"):
        KLIP.start_run(KLIP.Args(run_dir=str(tmp_path)))
    assert "holds a run already" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the other's"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_imports(variant):
    """Nothing of the repository, and inside functions only what few runs need."""
    tree = ast.parse(script(variant).read_text())

    def imported(nodes) -> set[str]:
        names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
        names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        return {name.split(".")[0] for name in names} - sys.stdlib_module_names

    assert imported(tree.body) == {"torch", "gymnasium", "mujoco", "numpy", "tyro", "tqdm"}
    assert imported(ast.walk(tree)) - imported(tree.body) == {"wandb"}


def test_one_thread(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    module = load("klip")
    torch.set_num_threads(2)
    module.set_up_torch(module.Args())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert (threads, os.environ["OPENBLAS_NUM_THREADS"]) == (1, "1")


@pytest.mark.parametrize(("score", "text"), [(0.456, "0.46"), (-9.99, "-9.99"), (10.4, "10")])
def test_a_small_return_is_printed_with_decimals(tmp_path, capsys, score, text):
    result = {"episodic_return": score, "wall_time_s": 119.6, "kill_fraction": 0.0}
    KLIP.finish_run(str(tmp_path), result | {"weights_sha256": ""})
    assert f"finished in 2 min 0 s\nreturn {text}, " in capsys.readouterr().out
