"""What is left in a run folder when a run is stopped, its disk is full, or it is tracked."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import VARIANTS, load, result, scalars, script, start

LONG = [
    "--env-id",
    "InvertedPendulum-v4",
    "--no-cuda",
    "--num-steps",
    "64",
    "--num-minibatches",
    "2",
]
SHORT = [*LONG, "--total-timesteps", "128"]


def launch(variant: str, folder: Path, *more: str) -> subprocess.Popen:
    """Start a run that would take many minutes, in a process group of its own."""
    command = [sys.executable, script(variant), *LONG, "--run-dir", folder, *more]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=folder.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait until the condition holds while the process runs."""
    end = time.time() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.time() < end, "waited too long"
        time.sleep(0.05)


def event_bytes(folder: Path) -> int:
    """Size of the event files in a folder."""
    return sum(file.stat().st_size for file in folder.glob("events*"))


def cpu_seconds(pid: int) -> float:
    """Processor time of a running process: on a busy machine wall time says little."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def one_line(stderr: str) -> str:
    """The one line that is not of the progress bar."""
    lines = [x.strip() for x in stderr.splitlines() if x.strip() and " steps, " not in x]
    assert len(lines) == 1, stderr
    return lines[0]


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a tmpfs with some options and returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        if not shutil.which("mount") or subprocess.call(command, stderr=subprocess.DEVNULL):
            pytest.skip("may not mount a tmpfs")
        mounted.append(folder)
        return folder

    yield mount
    for where in mounted:
        subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["training", "compiling"])
def test_signal_ends_a_run(tmp_path, number, when):
    folder = tmp_path / "run"
    if when == "compiling" and not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("no C++ compiler")
    more = ["--compile"] if when == "compiling" else []
    process = launch("klip", folder, "--total-timesteps", "100000000", *more)
    if when == "training":
        wait_for(lambda: event_bytes(folder) > 5000, process)
    else:  # the first of its compiler's processor time, after which it has not yet logged
        wait_for(lambda: event_bytes(folder) > 0, process)
        begun = cpu_seconds(process.pid)
        wait_for(lambda: cpu_seconds(process.pid) > begun + 1, process)
    used = cpu_seconds(process.pid)
    process.send_signal(number)
    stderr = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 128 + number
    assert usage.ru_utime + usage.ru_stime - used < 2
    assert all(not x.strip() or " steps, " in x for x in stderr.splitlines()), stderr
    assert not list(folder.glob("result.json*")) and not list(folder.glob("agent.pt*"))
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    if when == "training":
        logged = scalars(folder)
        counts = {len(values) for tag, values in logged.items() if tag.startswith("losses")}
        assert max(counts) - min(counts) <= 1 and min(counts) > 2


@pytest.mark.parametrize("pages", [2, 8])
def test_disk_full_while_logging(small_disk, pages):
    disk = small_disk(f"size={4 * pages}k")
    process = launch("clip", disk / "run", "--total-timesteps", "100000000")
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert "run folder cannot be written" in one_line(stderr)
    assert "No space left" in stderr
    assert not (disk / "run/agent.pt").exists() and not (disk / "run/result.json").exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_disk_full_when_saving(small_disk, variant):
    disk = small_disk("size=32k")  # agent.pt takes more than that
    done = start([script(variant), *SHORT, "--run-dir", disk / "run"], disk)
    assert done.returncode == 1
    assert "No space left" in one_line(done.stderr)
    assert not (disk / "run/agent.pt").exists() and not (disk / "run/result.json").exists()


def test_folder_deleted_under_a_run(tmp_path):
    folder = tmp_path / "run"
    process = launch("klip", folder, "--total-timesteps", "100000000")
    wait_for(lambda: event_bytes(folder) > 5000, process)
    folder.rename(tmp_path / "gone")
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert "run folder cannot be written" in one_line(stderr)
    assert not folder.exists()


def test_folder_that_cannot_be_made(tmp_path, small_disk):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/run"):
        done = start([script("klip"), *SHORT, "--run-dir", folder], tmp_path)
        assert done.returncode == 2 and f"--run-dir {folder}" in one_line(done.stderr)
    disk = small_disk("ro")
    for folder in (disk, disk / "run"):
        done = start([script("klip"), *SHORT, "--run-dir", folder], tmp_path)
        assert done.returncode == 2 and "Read-only" in one_line(done.stderr)


def test_evaluation_on_a_full_or_read_only_disk(tmp_path, small_disk):
    disk = small_disk("size=1m")
    run, evaluate = disk / "run", script("klip").parent / "evaluate.py"
    assert start([script("klip"), *SHORT, "--run-dir", run], tmp_path).returncode == 0
    with (
        open(disk / "filler", "wb", buffering=0) as filler,
        pytest.raises(OSError, match="No space"),
    ):
        while True:
            filler.write(bytes(4096))
    done = start([evaluate, run, "--episodes", "1"], tmp_path)
    assert done.returncode == 1 and "No space left" in one_line(done.stderr)
    assert not (run / "evaluation.json").exists()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = start([evaluate, run, "--episodes", "1"], tmp_path)
    assert done.returncode == 2 and "cannot be written" in one_line(done.stderr)


def test_track_without_wandb(tmp_path, capsys):
    module = load("klip")
    module.find_spec = lambda name: None
    with pytest.raises(SystemExit) as stopped:
        module.train(module.Run(run_dir=str(tmp_path / "run"), track=True), module.Args())
    assert stopped.value.code == 2
    assert "--track needs the package wandb: pip install wandb" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


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
