"""Runs as processes that are stopped, lose their output, folder or disk, or are tracked."""

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import ROOT, load, needs_compiler, result, scalars, script, start

QUICK = ["--env-id", "InvertedPendulum-v4", "--num-steps", "64", "--num-minibatches", "2"]
SHORT = [*QUICK, "--total-timesteps", "640"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def launch(folder: Path, steps: int, *more: str, **options) -> subprocess.Popen:
    """Start a run in a process group of its own, with its run folder in a folder."""
    command = [sys.executable, script("klip"), *QUICK, "--run-dir", "run", *more]
    return subprocess.Popen(
        [*map(str, command), "--total-timesteps", str(steps)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")},
        text=True,
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
    )


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait until the condition holds while the process runs."""
    end = time.time() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.time() < end, "waited too long"
        time.sleep(0.02)


def one_line(stderr: str) -> str:
    """The one line that is not of the progress."""
    lines = [line for line in stderr.splitlines() if not re.match(r"\d+/\d+ steps, ", line)]
    assert len(lines) == 1, stderr
    return lines[0]


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a tmpfs of a size and returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        if not shutil.which("mount") or subprocess.call(command, stderr=subprocess.DEVNULL):
            pytest.skip("may not mount a tmpfs")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


def importing(process: subprocess.Popen) -> bool:
    """Whether a process has begun to load PyTorch."""
    return "libtorch_cpu" in Path(f"/proc/{process.pid}/maps").read_text()


def compiling(process: subprocess.Popen) -> bool:
    """Whether a run has begun and started the C++ compiler."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return children != "" and Path(f"/proc/{process.pid}/cwd/run/config.json").exists()


def training(process: subprocess.Popen) -> bool:
    """Whether a run has saved its agent once."""
    return Path(f"/proc/{process.pid}/cwd/run/agent.pt").exists()


@linux
@pytest.mark.parametrize(
    "when, number",
    [
        (importing, signal.SIGINT),
        pytest.param(compiling, signal.SIGINT, marks=needs_compiler),
        (training, signal.SIGTERM),
    ],
)
def test_a_signal_ends_a_run_in_silence(tmp_path, when, number):
    """What was saved along the way stays, and is of a step that was logged."""
    more = ["--compile"] if when is compiling else []
    process = launch(tmp_path, 6400, *more)
    wait_for(lambda: when(process), process)
    sent = time.time()
    os.killpg(process.pid, number)  # as Ctrl-C does
    _, stderr = process.communicate()
    assert time.time() - sent < 2
    assert process.returncode == -number  # the shell's 130, 143
    assert re.fullmatch(r"(\d+/\d+ steps, .*\n)*", stderr)
    assert not (tmp_path / "run/result.json").exists()
    if when is training:
        saved = torch.load(tmp_path / "run/agent.pt", weights_only=True)
        assert saved["global_step"] % 640 == 0
        logged = scalars(tmp_path / "run")["losses/kl"]
        assert 64 * len(logged) >= saved["global_step"] > 0


@pytest.mark.skipif(os.name != "posix", reason="preexec_fn")
def test_stderr_closed(tmp_path):
    process = launch(tmp_path, 640, stderr=None, preexec_fn=lambda: os.close(2))
    assert "weights_sha256" in process.communicate()[0]
    assert process.returncode == 0
    assert (tmp_path / "run/result.json").exists()


def test_output_that_nobody_reads_to_its_end(tmp_path):
    """As with `2>&1 | head -1`."""
    process = launch(tmp_path, 640, stderr=subprocess.STDOUT)
    assert process.stdout.readline().startswith("PPO, ")
    process.stdout.close()
    assert process.wait() == 0
    assert result(tmp_path / "run")["global_step"] == 640


@pytest.mark.parametrize("what", ["agent.pt", "events"])
def test_disk_full(small_disk, what):
    """When saving the agent, who takes 40 KB, and while logging, which takes 1 KB an iteration."""
    disk = small_disk("32k" if what == "agent.pt" else "8k")
    process = launch(disk, 640 if what == "agent.pt" else 6400)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "No space left" in one_line(stderr)
    names = {path.name for path in (disk / "run").iterdir() if "tfevents" not in path.name}
    assert names - {"agent.pt.tmp"} == {"config.json"}
    assert ("agent.pt.tmp" in names) == (what == "agent.pt")


def test_folder_deleted_under_a_run(tmp_path):
    folder = tmp_path / "run"
    process = launch(tmp_path, 100_000_000)
    wait_for(lambda: [*folder.glob("events*")], process)
    folder.rename(tmp_path / "gone")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "No such file" in one_line(stderr)
    assert not folder.exists()


def test_evaluation_on_a_full_or_read_only_disk(small_disk, monkeypatch, capsys):
    disk = small_disk("1m")
    klip = load("klip")
    args = klip.Args("InvertedPendulum-v4", num_steps=64, total_timesteps=64)
    args.run_dir = str(disk / "run")
    klip.train(args)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", args.run_dir, "--episodes", "1"])
    capsys.readouterr()
    with (
        open(disk / "filler", "wb", buffering=0) as filler,
        pytest.raises(OSError, match="No space"),
    ):
        while True:
            filler.write(bytes(4096))
    with pytest.raises(SystemExit, match="1"):
        runpy.run_path(str(ROOT / "evaluate.py"), run_name="__main__")
    assert "No space left" in one_line(capsys.readouterr().err)
    assert not (disk / "run/evaluation.json").exists()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "evaluate.py"), run_name="__main__")
    assert "cannot be written" in one_line(capsys.readouterr().err)


@pytest.mark.skipif(not find_spec("wandb"), reason="wandb is not installed")
def test_tracking_offline_changes_no_weight(tmp_path):
    plain, tracked = tmp_path / "plain", tmp_path / "tracked"
    for folder, more in ((plain, []), (tracked, ["--track"])):
        command = [script("klip"), *SHORT, "--run-dir", folder, *more]
        done = start(command, tmp_path, WANDB_MODE="offline")
        assert done.returncode == 0, done.stderr
    assert result(tracked)["weights_sha256"] == result(plain)["weights_sha256"]
    [data] = tracked.glob("wandb/offline-run-*/run-*.wandb")
    assert b"episodic_return" in data.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "tracked"]
