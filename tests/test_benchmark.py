"""benchmark.sh under real kills, full disks and bad input; its grid and its arms."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, load, result

sys.path[:0] = [str(ROOT / "benchmark"), str(ROOT / "shapes")]
import arms
import insert

TINY = ["--num-steps", "256", "--num-minibatches", "4", "--update-epochs", "1"]
HOPPER = ["--envs", "Hopper-v4", "--seeds", "1"]


def benchmark(*flags: str, extra: list[str] = TINY, **environment: str) -> subprocess.Popen:
    """Start benchmark.sh with flags, and those in extra for the scripts, in its own session."""
    return subprocess.Popen(
        ["./benchmark.sh", *map(str, flags), *(["--", *extra] if extra else [])],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit status and output of a started benchmark.sh."""
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def wait_for(condition, seconds: float = 120) -> None:
    """Wait until condition() is true; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def processes(mark: Path) -> list[str]:
    """Command lines of the living processes that name a path."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has just ended
            continue
        if str(mark) in line:
            found.append(line)
    return found


def test_list_is_the_grid_with_seeds_outermost():
    begun = time.monotonic()
    status, output = finish(benchmark("--list", extra=[]))
    assert time.monotonic() - begun < 3  # it needs no PyTorch
    lines = output.splitlines()
    assert status == 0
    assert len(lines) == len(set(lines)) == 125
    assert all("--seed 1 " in line for line in lines[:25])
    assert lines[4].endswith(
        "ppo_kl_scalar_continuous.py --env-id HalfCheetah-v4 --seed 1 --total-timesteps 1000000 "
        "--exp-name kl_adaptive --run-dir runs/benchmark/HalfCheetah-v4__kl_adaptive__1 "
        "--kl-target 0.02"
    )
    assert "--total-timesteps 1000000" in lines[124] and "--seed 5 " in lines[124]


def test_list_has_an_arm_once_however_its_value_is_written():
    names = "clip=0.10,clip=.1,clip=0.2,clip,kl_fixed=3.0,kl_fixed=1,kl_adaptive=0.05,spo,spo=0.3"
    status, output = finish(benchmark("--list", *HOPPER, "--arms", names, "--out", "x", extra=[]))
    assert status == 0
    commands = [line.split() for line in output.splitlines()]
    found = [(c[1], c[c.index("--exp-name") + 1], *c[-2:]) for c in commands]
    scalar = "ppo_kl_scalar_continuous.py"
    assert found == [
        ("ppo_clip_continuous.py", "clip=0.1", "--clip-coef", "0.1"),
        ("ppo_clip_continuous.py", "clip", "--clip-coef", "0.2"),
        (scalar, "kl_fixed=3", "--kl-coef", "3"),
        (scalar, "kl_fixed", "--kl-coef", "1"),
        (scalar, "kl_adaptive=0.05", "--kl-target", "0.05"),
        ("x/ppo_spo_continuous.py", "spo", "--clip-coef", "0.2"),
        ("x/ppo_spo_continuous.py", "spo=0.3", "--clip-coef", "0.3"),
    ]
    assert "--run-dir x/Hopper-v4__kl_fixed=3__1" in output


@pytest.mark.parametrize("text", [*arms.FAMILIES, *insert.names()])
def test_an_arm_without_a_value_has_that_of_its_script(text):
    arm = arms.parse(text)
    args = load("klip" if arm.is_shape else arm.script.split("_continuous")[0][4:]).Args()
    expected = {name: getattr(args, name) for name in arm.settings}
    if text == "kl_adaptive":
        expected["kl_target"] = 0.02  # the paper's; the script's default is none
    assert arm.settings == expected
    if arms.has_value(text):
        assert arms.parse(f"{text}={arm.value}0") == arm


def test_only_a_rule_without_epsilon_has_no_value():
    assert [name for name in insert.names() if not arms.has_value(name)] == ["dpo"]


@pytest.mark.parametrize(
    "flags, extra, named",
    [
        (["--steps", "many"], [], "--steps"),
        (["--jobs", "0"], [], "--jobs"),
        (["--seeds", "1,x"], [], "--seeds"),
        (["--seeds", "1,"], [], "--seeds"),
        (["--envs"], [], "--envs"),
        (["--envs", "--list"], [], "--envs"),
        (["--envs", ","], [], "--envs"),
        (["--envs", "*"], [], "--envs"),
        (["--list", "--envs", ","], [], "--envs"),
        (["--arms", "clip,pho"], [], "--arms: pho"),
        (["--arms", "../rules/spo"], [], "--arms: ../rules/spo"),
        (["--arms", "clip="], [], "--arms: clip="),
        (["--arms", "clip=1"], [], "--arms: clip=1"),
        (["--arms", "dpo=0.3"], [], "--arms: dpo=0.3"),
        (["--arms", "spo=-0.2"], [], "--arms: spo=-0.2"),
        (["--arms", "kl_fixed=0"], [], "--arms: kl_fixed=0"),
        (["--arms", "kl_adaptive=nan"], [], "--arms: kl_adaptive=nan"),
        (["--fast"], [], "--fast"),
        ([], ["--seed", "3"], "--seed"),
        ([], ["--clip_coef=0.1"], "--clip_coef=0.1"),
        # what the scripts themselves would refuse
        ([], ["--num-stps", "256"], "--num-stps"),
        ([], ["--help"], "after --"),
        (["--steps", "255"], TINY, "--steps"),
        (["--envs", "Hoper-v4"], TINY, "--envs 'Hoper-v4'"),
        # the module is found
        (["--envs", "ppo_klip_continuous:Nope-v0"], TINY, "`Nope` doesn't exist"),
        (["--seeds", "1,4000000000"], TINY, "--seeds"),
        (["--arms", "spo"], ["--num-minibatches", "7"], "--num-minibatches"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(tmp_path, flags, extra, named):
    status, output = finish(benchmark("--out", tmp_path / "out", *flags, extra=extra))
    assert (status, output.count("\n")) == (2, 1), output
    assert output.startswith("benchmark.sh: error: ") and named in output
    assert not (tmp_path / "out").exists()


def test_interrupted_while_it_checks_it_says_nothing(tmp_path):
    process = benchmark("--out", tmp_path / "out")
    time.sleep(0.7)  # of about 2 s
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process) == (-signal.SIGINT, "")
    assert not (tmp_path / "out").exists()


BROKEN = """
import gymnasium
from gymnasium.spaces import Box

class Broken(gymnasium.Env):
    observation_space = action_space = Box(-1, 1, (1,))

    def reset(self, **kwargs):
        return self.observation_space.sample(), {}

    def step(self, action):
        raise RuntimeError("the robot is broken")

gymnasium.register("Broken-v0", Broken)
"""


def test_a_failed_run_is_shown_and_the_others_go_on(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    out = tmp_path / "out"
    grid = ["--out", out, "--envs", "broken:Broken-v0,Hopper-v4", "--seeds", "1"]
    grid += ["--arms", "klip", "--steps", "512"]
    status, output = finish(benchmark(*grid, PYTHONPATH=str(tmp_path)))
    assert status == 1
    assert "broken_Broken-v0__klip__1 FAILED with exit status 1" in output
    assert "the robot is broken" in output  # the end of its log
    assert "1/2 runs finished, 0 running, 1 failed" in output
    assert "1 runs of 512 steps" in (out / "results/report.md").read_text()

    (finished,) = out.glob("*/result.json")
    made = finished.stat().st_mtime_ns
    status, output = finish(benchmark(*grid, PYTHONPATH=str(tmp_path)))
    assert (status, output.count("FAILED")) == (1, 1)  # tried again
    assert finished.stat().st_mtime_ns == made  # not run again


def test_settings_may_change_until_a_run_has_finished(tmp_path):
    grid = ["--out", tmp_path, *HOPPER, "--arms", "klip", "--steps"]
    other = [*TINY, "--learning-rate", "1e-3"]
    process = benchmark(*grid, "100000")
    wait_for((tmp_path / "Hopper-v4__klip__1/config.json").exists)
    status, output = finish(benchmark(*grid, "512", extra=other))
    assert (status, output.count("\n")) == (2, 1), output  # a run is under way
    assert "name another folder" in output
    process.terminate()
    finish(process)

    status, output = finish(benchmark(*grid, "512", extra=other))
    assert status == 0, output
    assert result(tmp_path / "Hopper-v4__klip__1")["learning_rate"] == 1e-3
    settings = tmp_path / "settings"
    held = settings.read_text()
    assert held == f"--total-timesteps 512 {' '.join(other)}\n"
    assert settings.stat().st_mode & 0o444 == 0o444  # for other users, too
    status, output = finish(benchmark(*grid, "512"))
    assert (status, output.count("\n")) == (2, 1)
    assert "name another folder" in output and settings.read_text() == held


def test_arms_with_values_and_shapes_share_a_folder(tmp_path):
    grid = ["--out", tmp_path, *HOPPER, "--steps", "512", "--arms"]
    names = ["kl_fixed=3", "kl_adaptive=0.05", "spo"]
    status, output = finish(benchmark(*grid, ",".join(names)))
    assert status == 0, output
    for name in names:
        found = result(tmp_path / f"Hopper-v4__{name}__1")
        expected = {"exp_name": name, **arms.parse(name).settings}
        assert {key: found[key] for key in expected} == expected
    assert (tmp_path / "ppo_spo_continuous.py").read_text() == insert.compose("spo")

    made = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/result.json")}
    status, output = finish(benchmark(*grid, "spo=0.3,spo,kl_fixed=3.0"))
    assert status == 0, output
    assert output.count("__1 finished: ") == 1
    assert result(tmp_path / "Hopper-v4__spo=0.3__1")["clip_coef"] == 0.3
    assert {file: file.stat().st_mtime_ns for file in made} == made  # run once

    with open(tmp_path / "ppo_spo_continuous.py", "a") as script:
        script.write("# an older rule\n")
    status, output = finish(benchmark(*grid, "kl_fixed=3,spo"))
    assert (status, output.count("\n")) == (2, 1), output
    assert "ppo_spo_continuous.py, which has changed since: name another folder" in output
    assert "an older rule" in (tmp_path / "ppo_spo_continuous.py").read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_it_leaves_no_process_and_goes_on_when_started_again(tmp_path, number):
    grid = ["--out", tmp_path, *HOPPER, "--arms", "clip,klip", "--jobs", "2", "--steps", "25600"]
    process = benchmark(*grid)
    folders = [tmp_path / f"Hopper-v4__{arm}__1" for arm in ("clip", "klip")]
    wait_for(lambda: all((folder / "config.json").exists() for folder in folders))
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    status, _ = finish(process)
    assert status == (-9 if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGKILL:
        wait_for(lambda: not processes(tmp_path), 20)
    assert processes(tmp_path) == []
    assert not any((folder / "result.json").exists() for folder in folders)
    if number != signal.SIGKILL:
        return

    for folder in folders:
        (folder / "left by the first start").touch()
    status, output = finish(benchmark(*grid))
    assert status == 0, output
    for folder in folders:
        assert (folder / "result.json").exists()
        assert not (folder / "left by the first start").exists()
        assert len(list(folder.glob("events.*"))) == 1


def test_two_copies_share_the_work(tmp_path):
    grid = ["--out", tmp_path, *HOPPER, "--arms", "clip,phi,klip", "--jobs", "1", "--steps", "512"]
    copies = [benchmark(*grid) for _ in range(2)]
    outcomes = [finish(copy) for copy in copies]
    assert [status for status, _ in outcomes] == [0, 0], outcomes
    for arm in ("clip", "phi", "klip"):
        lines = [line for _, text in outcomes for line in text.splitlines()]
        assert sum(line.startswith(f"Hopper-v4__{arm}__1 finished") for line in lines) == 1
        assert len(list(tmp_path.glob(f"*__{arm}__1/events.*"))) == 1


def test_a_run_held_by_another_copy_is_waited_for(tmp_path):
    with open(tmp_path / "Hopper-v4__clip__1.log", "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        process = benchmark("--out", tmp_path, *HOPPER, "--arms", "clip", "--steps", "512")
        time.sleep(3)
        assert process.poll() is None
        assert not (tmp_path / "Hopper-v4__clip__1").exists()
    status, output = finish(process)  # closing the log gave the lock back
    assert status == 0
    assert "Hopper-v4__clip__1 finished" in output


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if not shutil.which("mount") or subprocess.call(command, stderr=subprocess.DEVNULL):
        pytest.skip("may not mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(folder: Path) -> None:
    """Fill the disk of a folder."""
    with open(folder / "filler", "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_is_the_reason_given(small_disk):
    fill(small_disk)
    grid = ["--out", small_disk / "out", *HOPPER, "--jobs", "1", "--arms", "klip,phi"]
    status, output = finish(benchmark(*grid, "--steps", "100000"))
    assert status == 2
    assert output.endswith("cannot be written: No space left on device\n")

    (small_disk / "filler").unlink()
    process = benchmark(*grid, "--steps", "100000")
    wait_for((small_disk / "out/Hopper-v4__klip__1/config.json").exists)
    fill(small_disk)
    status, output = finish(process)
    assert status == 1
    lines = output.splitlines()
    assert len(lines) == 2  # the first says what is to come
    assert "cannot be written: No space left on device" in lines[1]


def test_a_deleted_folder_stops_it(tmp_path):
    out = tmp_path / "out"
    grid = ["--out", out, *HOPPER, "--jobs", "1", "--arms", "klip,phi", "--steps", "25600"]
    process = benchmark(*grid)
    wait_for((out / "Hopper-v4__klip__1/config.json").exists)
    shutil.rmtree(out)
    status, output = finish(process)
    assert status == 1
    lines = output.splitlines()
    assert len(lines) == 2 and "was deleted" in lines[1], output
    assert processes(out) == [] and not out.exists()
