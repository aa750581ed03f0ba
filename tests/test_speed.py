"""benchmark/speed.py measures what it says; nothing here depends on how fast the machine is."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import mujoco
import psutil
import pytest
from conftest import ROOT, VARIANTS, script, start

sys.path += [str(ROOT / "benchmark"), str(ROOT / "shapes")]
import insert
import speed

COMMAND = ROOT / "benchmark/speed.py"
HOG = "import subprocess, sys, time; x = b'x' * 80_000_000; "
BESIDE = (
    "subprocess.run([sys.executable, '-c', 'import time; y = b\"y\" * 80_000_000; time.sleep(2)'])"
)


def number(cell: str) -> float:
    """A cell's median."""
    return float(cell.split(" ")[0].replace(",", ""))


def test_a_small_measurement(tmp_path):
    flags = ["--envs", "InvertedPendulum-v4", "--num-envs", "2", "--arms", "spo=0.30"]
    flags += ["--batch-size", "512", "--minibatch-sizes", "128", "--steps", "8200"]
    flags += ["--repeats", "1", "--no-sb3", "--no-compile"]
    done = start([COMMAND, *flags], tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    speeds, times = cells[:3], cells[3:]
    assert {len(row) for row in speeds} == {9} and {len(row) for row in times} == {12}
    label, envs, size, whole, steady, *_, share, peak = speeds[2]
    assert (label, envs, size) == ("spo=0.3", "2", "128")
    assert 0 < number(whole) < number(steady) and number(peak) > 100
    numbers = map(number, times[2][3:])
    act, env, evaluate, advantages, update, log, total, mj_step, minibatch = numbers
    assert total == pytest.approx(act + env + evaluate + advantages + update + log, abs=1)
    assert minibatch == pytest.approx(12.8 * update, abs=2)
    assert 0 < mj_step < env and number(share) == pytest.approx(100 * mj_step / total, abs=1)
    for stated in ("--steps 8200", "cores", "torch ", "mujoco ", "## InvertedPendulum-v4"):
        assert stated in done.stdout


def test_phases_are_timed_from_the_third_iteration_to_the_last_but_one(monkeypatch):
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    @dataclass
    class Args:
        env_id: str
        total_timesteps: int
        run_dir: str
        num_envs: int
        num_steps: int
        num_minibatches: int
        update_epochs: int
        kl_coef: float
        cuda: bool = False
        compile: bool = False

    def train(args: Args) -> None:
        nonlocal seen
        seen = args
        env = fake.make_env()
        for iteration in range(args.total_timesteps // 1024):
            fake.mark("act")
            spend(1024 * 1.0)
            env.reset()
            for _ in range(1024):
                env.step()
            for k, phase in enumerate(speed.PHASES[1:], start=4):
                fake.mark(phase)
                spend(1024 * k * (1 if iteration in (2, 3) else 50))

    def make_env() -> SimpleNamespace:
        return SimpleNamespace(step=lambda: spend(2.0), reset=lambda: spend(1024 * 1.0))

    seen = None
    fake = SimpleNamespace(Args=Args, train=train, make_env=make_env)
    monkeypatch.setattr(speed, "load_script", lambda arm: fake)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now)
    monkeypatch.setattr(mujoco, "mj_step", mujoco.mj_step)  # to be undone
    sizes = {"num_envs": 2, "minibatch_size": 128, "batch_size": 1024}
    case = speed.Case("Hopper-v4", "kl_fixed=3", compiled=True, device="cuda", **sizes)
    found = speed.train_script(case, 5 * 1024)
    assert seen == Args("Hopper-v4", 5 * 1024, "run", 2, 512, 8, 10, 3.0, True, True)
    assert found.pop("start") == found.pop("mj_step") == 0
    assert found == {
        "act": 1.0,
        "env": 3.0,
        "evaluate": 4.0,
        "advantages": 5.0,
        "update": 6.0,
        "log": 7.0,
        "steady": 26.0,
    }


def test_ratios_and_units():
    def made(whole: float, steady: float, mj_step: float) -> dict:
        spent = dict.fromkeys(("act", "env", *speed.PHASES[1:]), 1e-6)
        return spent | {"whole": whole, "steady": steady, "mj_step": mj_step, "peak": 5e8}

    runs = {
        speed.Case("Hopper-v4", None): [made(1e-3, 9e-4, 1e-4), made(2e-3, 2e-3, 2e-4)],
        speed.Case("Hopper-v4", "klip", True): [made(5e-4, 3e-4, 9e-5), made(5e-4, 5e-4, 9e-5)],
    }
    text = speed.speed_table(runs)
    ours = "2,000 (2,000..2,000) | 2,667 (2,000..3,333) | 3.00 (2.00..4.00) | 3.50 (3.00..4.00)"
    assert f"| klip, --compile | 1 | 64 | {ours} | 24 (18..30) | 500 (500..500) |" in text
    assert "| Stable-Baselines3 | 1 | 64 |" in text
    ours = " | ".join(["1.0 (1.0..1.0)"] * 6 + ["400.0 (300.0..500.0)", "90.0 (90.0..90.0)"])
    assert f"| klip, --compile | 1 | 64 | {ours} | 6 (6..6) |" in speed.phase_table(runs)
    assert "Stable-Baselines3" not in speed.phase_table(runs)


@pytest.mark.parametrize("name", [*VARIANTS, "spo"])
def test_every_script_marks_each_phase_once(name):
    source = insert.compose(name) if name == "spo" else script(name).read_text()
    marks = re.findall(r"^        mark\('(\w+)'\)$", speed.instrumented(source), re.MULTILINE)
    assert tuple(marks) == speed.PHASES


def test_memory_is_the_whole_trees():
    alone, both = (
        speed.wait_and_watch(psutil.Popen([sys.executable, "-c", HOG + more]))
        for more in ("time.sleep(1)", BESIDE)
    )
    assert 80e6 < alone < 160e6 < both < 250e6


def test_median_and_spread():
    assert speed.cell([3.0, 1000.0, 1.0]) == "3 (1..1,000)"
    assert speed.cell([2.04], 1) == "2.0"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"steps": 8191}, "--steps"),
        ({"num_envs": (1, 3)}, "--num-envs"),
        ({"minibatch_sizes": (64, 4096)}, "--minibatch-sizes"),
        ({"batch_size": 16384}, "--steps must be at least 65536"),
        ({"batch_size": 0}, "--batch-size"),
        ({"devices": ("cpu", "cuda")}, "--devices cuda"),
        ({"repeats": 0}, "--repeats"),
        ({"envs": ("Hopper-v4", "Nope-v0")}, "--envs"),
        ({"arms": ("clip", "nope")}, "--arms"),
        ({"arms": ("clip=2",)}, "--arms"),
        ({"sb3": True}, "pip install --no-deps stable-baselines3=="),
    ],
)
def test_bad_input_is_one_line(arguments, named, capsys, monkeypatch):
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        speed.main(speed.Args(**({"sb3": False} | arguments)))
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == ""
    assert err.count("\n") == 1 and named in err


def test_what_a_script_refuses_is_passed_on(tmp_path, capsys):
    code = "import sys; print('out'); print('x.py: error: y', file=sys.stderr); sys.exit(2)"
    with pytest.raises(SystemExit) as stopped:
        speed.run_process(code, str(tmp_path))
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", "x.py: error: y\n")


def started(folder: Path, *flags: str, **environment: str) -> subprocess.Popen:
    """speed.py, with its temporary files in a folder."""
    return subprocess.Popen(
        [sys.executable, COMMAND, "--no-sb3", *flags],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_its_children_and_leaves_nothing(tmp_path, number):
    process = started(tmp_path)
    children = []
    while not children:
        assert process.poll() is None
        time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
    time.sleep(0.2)
    assert list(tmp_path.iterdir())
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (128 + number, b"")
    assert not any(child.is_running() for child in children)
    assert not list(tmp_path.iterdir())


def test_a_signal_ends_its_imports_in_silence(tmp_path):
    slow = "import time\nopen('importing', 'w').close()\ntime.sleep(60)\n"
    (tmp_path / "gymnasium.py").write_text(slow)
    process = started(tmp_path, PYTHONPATH=str(tmp_path))
    while not (tmp_path / "importing").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, b"")
