"""What a user meets at the command line: help, bad input, what a run prints and leaves behind."""

import ast
import hashlib
import json
import re
import runpy
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import VARIANTS, load, needs_compiler, scalars, script, start

MODULES = {variant: load(variant) for variant in VARIANTS}
QUICK = "--env-id Hopper-v4 --num-steps 64 --num-minibatches 2 --total-timesteps 192 --no-cuda"

# what is wrong, and what the one line must say besides the argument's name
BAD = {
    "--env-id Walker2-v4": "Did you mean: `Walker2d`?",
    "--env-id walker2d-v4": "Did you mean: `Walker2d`?",
    "--env-id Hopper-v99": "`v4`",
    "--env-id nowhere:Hopper-v4": "nowhere",
    "--env-id CartPole-v1": "Box",
    "--env-id FrozenLake-v1": "Box",
    "--num-minibatches 7": "64",
    "--num-minibatches 128": "64",
    "--num-minibatches 0": "0",
    "--total-timesteps 63": "64",
    "--total-timesteps -1": "-1",
    "--num-steps 0": "0",
    "--num-envs 0": "0",
    "--update-epochs 0": "0",
    "--seed -1": "-1",
    "--learning-rate 0": "0",
    "--learning-rate -1e-3": "-0.001",
    "--learning-rate nan": "nan",
    "--learning-rate inf": "inf",
    "--gamma 1.01": "[0, 1]",
    "--gamma -0.1": "[0, 1]",
    "--gamma nan": "[0, 1]",
    "--gae-lambda 1.5": "[0, 1]",
    "--clip-coef 0": "(0, 1)",
    "--clip-coef 1": "(0, 1)",
    "--clip-coef nan": "(0, 1)",
    "--ent-coef -1": "-1",
    "--vf-coef nan": "nan",
    "--max-grad-norm 0": "0",
    "--target-kl 0": "0",
    "--run-dir finished": "finished",
    "--run-dir a_file": "a_file",
    "--run-dir a_file/below": "a_file",
    "--run-dir /proc/nowhere": "/proc/nowhere",
    "--compile": "g++",
    "--kl-coef -1": "-1",
    "--kl-target nan": "nan",
}


@pytest.fixture
def folder(tmp_path):
    """A folder with a finished run and a file."""
    (tmp_path / "finished").mkdir()
    (tmp_path / "finished" / "result.json").write_text("{}")
    (tmp_path / "a_file").write_text("")
    return tmp_path


def is_refused(code: int, out: str, error: str, folder, bad: str, hint: str) -> bool:
    """Whether a command said what is wrong in one line and left the folder as it was."""
    assert code == 2, error
    assert out == "" and error.count("\n") == 1
    assert error.startswith("ppo_kl_scalar_continuous.py: error: ")
    assert bad.split()[0] in error and hint in error
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return names == {"finished", "finished/result.json", "a_file"}


@pytest.mark.parametrize("bad, hint", BAD.items(), ids=BAD)
def test_bad_input_gets_one_line(monkeypatch, capsys, folder, bad, hint):
    """The scalar script, which has all arguments, as a program, though in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    program = str(script("kl_scalar"))
    monkeypatch.setattr(sys, "argv", [program, *QUICK.split(), *bad.split()])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(program, run_name="__main__")
    assert is_refused(stop.value.code, *capsys.readouterr(), folder, bad, hint)


@pytest.mark.parametrize("bad", ["--env-id Walker2-v4", "--run-dir a_file", "--gamma nan"])
def test_bad_input_in_a_process_of_its_own(folder, bad):
    done = start([script("kl_scalar"), *QUICK.split(), *bad.split()], folder)
    assert is_refused(done.returncode, done.stdout, done.stderr, folder, bad, BAD[bad])


@pytest.mark.parametrize("bad", ["--env-i Hopper-v4", "--gamma much", "--num-steps 1.5"])
def test_what_the_parser_refuses(tmp_path, bad):
    done = start([script("klip"), *bad.split()], tmp_path)
    assert done.returncode == 2 and bad.split()[0] in done.stderr
    assert "Traceback" not in done.stderr and not [*tmp_path.iterdir()]


def test_track_without_wandb(monkeypatch, capsys):
    module = load("klip")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        module.check(module.Run(track=True), module.Args())
    assert re.fullmatch(r".*error: --track .*pip install wandb\n", capsys.readouterr().err)


def test_good_input_at_the_limits():
    args = MODULES["klip"].Args(gamma=1, gae_lambda=0, ent_coef=0, vf_coef=0, clip_coef=0.999)
    MODULES["klip"].check(MODULES["klip"].Run(seed=0, total_timesteps=2048), args)


@pytest.mark.parametrize("variant", VARIANTS)
def test_help_shows_every_argument(tmp_path, variant):
    done = start([script(variant), "--help"], tmp_path, COLUMNS="100")
    assert done.returncode == 0 and not [*tmp_path.iterdir()]
    words = " ".join(done.stdout.replace("│", " ").split())
    pattern = re.compile(r"^    (\w+): .* = .*  # (.*)$", re.MULTILINE)
    comments = dict(pattern.findall(script(variant).read_text()))
    for group in (MODULES[variant].Run, MODULES[variant].Args):
        for field in fields(group):
            assert f"--{field.name.replace('_', '-')}" in words
            assert comments[field.name] in words, field.name


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run of klip in `run`, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, start([script("klip"), *QUICK.split(), "--run-dir", "run"], folder)


def test_what_a_run_leaves(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    run_dir = folder / "run"
    events = [path.name for path in run_dir.glob("events.out.tfevents.*")]
    names = {path.name for path in run_dir.iterdir()}
    assert names == {*events, "config.json", "agent.pt", "result.json"} and len(events) == 1
    assert [path.name for path in folder.iterdir()] == ["run"]

    config = json.loads((run_dir / "config.json").read_text())
    arguments = {f.name for group in ("Run", "Args") for f in fields(vars(MODULES["klip"])[group])}
    assert config.keys() == arguments | {"device", "versions"}
    assert config["versions"].keys() == {"python", "torch", "gymnasium", "mujoco", "numpy"}
    result = json.loads((run_dir / "result.json").read_text())
    more = {"global_step", "episodic_return", "weights_sha256", "kill_fraction"}
    assert result.keys() == config.keys() | more | {"sps", "wall_time_s"}
    assert result["global_step"] == 192

    state = torch.load(run_dir / "agent.pt", weights_only=True)
    data = b"".join(y.numpy().tobytes() for y in state.values())
    assert hashlib.sha256(data).hexdigest() == result["weights_sha256"]
    logged = scalars(run_dir)
    assert result["kill_fraction"] == pytest.approx(np.mean(logged["partition/kill"]))
    parts = [logged[f"partition/{name}"] for name in ("in", "kill", "pass")]
    assert np.sum(parts, 0) == pytest.approx([1, 1, 1])
    for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "kl"):
        assert len(logged[f"losses/{name}"]) == 3, name
    for name in ("losses/explained_variance", "charts/learning_rate", "charts/SPS"):
        assert len(logged[name]) == 3, name


def test_what_a_run_prints(finished):
    """Progress on stderr, the results on stdout, and no warning."""
    folder, done = finished
    sha = json.loads((folder / "run" / "result.json").read_text())["weights_sha256"]
    assert re.fullmatch(rf"run\nfinal return \S+\nweights_sha256 {sha}\n", done.stdout)
    assert all(re.search(r"/192 steps, .* left", x) for x in done.stderr.split("\n") if x.strip())


def test_final_return_is_null_if_no_episode_ended(tmp_path):
    quick = QUICK.replace("Hopper", "HalfCheetah").split()
    start([script("klip"), *quick, "--run-dir", "run"], tmp_path)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["episodic_return"] is None


def test_a_weight_that_turns_nan_stops_the_run(tmp_path):
    done = start(
        [script("klip"), *QUICK.split(), "--learning-rate", "1e30", "--run-dir", "run"], tmp_path
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"error: NaN or infinity in iteration \d: lower --learning-rate", done.stderr)
    assert not (tmp_path / "run" / "result.json").exists()


NAN_TASK = """
import gymnasium as gym
import numpy as np

class Nan(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    steps = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        obs = np.full(2, self.steps, np.float32)
        what = {WHAT: np.nan} if self.steps == 100 else {}
        return what.get("obs", 1) * obs, what.get("reward", 1.0), False, False, {}

gym.register("Nan-v0", entry_point=Nan)
"""


@pytest.mark.parametrize("what", ["obs", "reward"])
def test_a_nan_of_the_environment_stops_the_run(tmp_path, what):
    """Its 100th step is in the second rollout of 64."""
    (tmp_path / "nan_task.py").write_text(NAN_TASK.replace("WHAT", repr(what)))
    command = [script("klip"), *QUICK.split(), "--env-id", "nan_task:Nan-v0", "--run-dir", "run"]
    done = start(command, tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "iteration 2: returned by nan_task:Nan-v0" in done.stderr
    assert not (tmp_path / "run" / "result.json").exists()


def test_two_runs_of_one_second_get_two_folders(monkeypatch, tmp_path):
    """The second waits for the next second; the clock is a fake one."""
    module, clock = load("klip"), [1000.9]
    sleep = lambda seconds: clock.__setitem__(0, clock[0] + seconds)
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: clock[0], sleep=sleep))
    monkeypatch.chdir(tmp_path)
    paths = [module.make_run_dir(module.Run(), {"run": i}) for i in range(3)]
    name = "runs/HalfCheetah-v4__ppo_klip_continuous__1__"
    assert paths == [f"{name}{second}" for second in (1000, 1001, 1002)]
    assert [json.loads(Path(path, "config.json").read_text())["run"] for path in paths] == [0, 1, 2]


def test_importing_runs_nothing(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(script('clip').parent)!r}); "
    code += "; ".join(f"import {script(variant).stem}" for variant in VARIANTS)
    done = start(["-c", code, "--not-an-argument"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("how", [[], pytest.param(["--compile"], marks=needs_compiler)])
def test_only_compile_loads_the_compiler(tmp_path, how):
    """70 MB and most of a second; torch.optim.Adam would load it, too."""
    code = f"import runpy, sys; runpy.run_path({str(script('klip'))!r}, run_name='__main__'); "
    done = start(["-c", code + "print(*sys.modules)", *QUICK.split(), *how], tmp_path)
    assert ("torch._dynamo" in done.stdout.split()) == bool(how), done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_imports(variant):
    """Nothing of the repository, and inside functions only what few runs need."""
    tree = ast.parse(script(variant).read_text())

    def imported(nodes) -> set[str]:
        names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
        names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        return {name.split(".")[0] for name in names} - sys.stdlib_module_names

    assert imported(tree.body) == {"torch", "gymnasium", "numpy", "tyro", "tqdm"}
    assert imported(ast.walk(tree)) - imported(tree.body) <= {"mujoco", "wandb"}
