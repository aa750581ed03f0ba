"""benchmark.sh under real kills, full disks and bad input; its grid, its arms, a run verified.

Most of it runs in a copy of the repository whose scripts are stand-ins that need no PyTorch.
"""

import csv
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import arms
import pytest
from conftest import ROOT, VARIANTS, load, result, script

STAND_IN = r'''
"""As a script: its arguments and its run folder."""

import json
import os
import time
from dataclasses import asdict, dataclass
from types import SimpleNamespace


@dataclass
class Args:
    env_id: str = "Hopper-v4"
    seed: int = 1
    total_timesteps: int = 1000
    exp_name: str = "x"
    run_dir: str | None = None
    clip_coef: float = 0.2
    kl_coef: float = 1.0
    kl_target: float | None = None
    seconds: float = 0.0


def check(args):
    if args.seed >= 2**31:
        raise ValueError("--seed must be in [0, 2^31)")
    if args.total_timesteps < 256:
        raise ValueError("--total-timesteps must be at least 256")


def make_env(env_id, **kwargs):
    if env_id not in ("Hopper-v4", "Broken-v0", "HalfCheetah-v4"):
        raise ValueError(f"--env-id {env_id!r} cannot be made")
    if "MARK_CHECK" in os.environ:
        open(os.environ["MARK_CHECK"], "x").close()
        time.sleep(30)
    return SimpleNamespace(close=lambda: None)


def ppo_loss():
    # --- policy loss ---
    objective = 0
    # --- end of policy loss ---
    return objective


if __name__ == "__main__":
    import tyro

    args = tyro.cli(Args)
    os.makedirs(args.run_dir, exist_ok=True)
    with open(f"{args.run_dir}/config.json", "x") as file:
        file.write("{}")
    if args.env_id == "Broken-v0":
        raise RuntimeError("the robot is broken")
    time.sleep(args.seconds)
    with open(os.path.dirname(args.run_dir) + "/ended", "a") as file:
        file.write(os.path.basename(args.run_dir) + "\n")
    weights = f"{args.seed:064}"
    with open(f"{args.run_dir}/draft", "w") as file:
        json.dump(asdict(args) | {"weights_sha256": weights}, file)
    os.replace(f"{args.run_dir}/draft", f"{args.run_dir}/result.json")
'''
HOPPER = ["--envs", "Hopper-v4", "--seeds", "1"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository with stand-ins for the scripts and for what makes the report."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("benchmark", "rules"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("results"))
    shutil.copy(ROOT / "benchmark.sh", folder)
    for variant in VARIANTS:
        (folder / script(variant).name).write_text(STAND_IN)
    for name in ("runs", "report"):
        (folder / f"benchmark/{name}.py").write_text(f"print('{name}')\n")
    return folder


def benchmark(
    folder: Path, *flags, extra: list[str] = (), program="./benchmark.sh", **environment
) -> subprocess.Popen:
    """Start benchmark.sh of a folder in its own session, with flags and those for the scripts."""
    return subprocess.Popen(
        [program, *map(str, flags), *(["--", *extra] if extra else [])],
        cwd=folder,
        env=os.environ | {"PYTHON": sys.executable} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit status and output of a started benchmark.sh."""
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def wait_for(condition, seconds: float = 20) -> None:
    """Wait until condition() is true; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def processes(mark: Path) -> list[str]:
    """Command lines of the living processes that name a path."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it may just have ended
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(mark) in line:
                found.append(line)
    return found


def ended(out: Path) -> Counter:
    """How often each run has come to its end."""
    return Counter((out / "ended").read_text().split())


# --- the grid and its arms


def test_list_is_the_grid_with_seeds_outermost():
    status, output = finish(benchmark(ROOT, "--list"))
    lines = output.splitlines()
    assert status == 0
    assert len(lines) == len(set(lines)) == 125
    assert all("--seed 1 " in line for line in lines[:25])
    assert lines[4] == (
        "python ppo_kl_scalar_continuous.py --env-id HalfCheetah-v4 --seed 1 --exp-name kl_adaptive "
        "--run-dir runs/benchmark/HalfCheetah-v4__kl_adaptive__1 --kl-target 0.02 "
        "--total-timesteps 1000000"
    )
    assert "--seed 5 " in lines[124]


def test_list_has_an_arm_once_however_its_value_is_written():
    names = "clip=0.10,clip=.1,clip=0.2,clip,kl_fixed=3.0,kl_fixed=1,kl_adaptive=0.05,spo=0.3"
    names += ",kl_mean=3,kl_mean_adaptive,clip_quiet"
    status, output = finish(benchmark(ROOT, "--list", *HOPPER, "--arms", names, "--out", "x"))
    assert status == 0
    commands = [line.split()[1:-2] for line in output.splitlines()]
    assert [(c[0], c[c.index("--exp-name") + 1], *c[-2:]) for c in commands] == [
        ("ppo_clip_continuous.py", "clip=0.1", "--clip-coef", "0.1"),
        ("ppo_clip_continuous.py", "clip", "--clip-coef", "0.2"),
        ("ppo_kl_scalar_continuous.py", "kl_fixed=3", "--kl-coef", "3"),
        ("ppo_kl_scalar_continuous.py", "kl_fixed", "--kl-coef", "1"),
        ("ppo_kl_scalar_continuous.py", "kl_adaptive=0.05", "--kl-target", "0.05"),
        ("x/ppo_spo_continuous.py", "spo=0.3", "--clip-coef", "0.3"),
        ("x/ppo_kl_mean_continuous.py", "kl_mean=3", "--kl-coef", "3"),
        ("x/ppo_kl_mean_continuous.py", "kl_mean_adaptive", "--kl-target", "0.02"),
        ("x/ppo_clip_quiet_continuous.py", "clip_quiet", "--clip-coef", "0.2"),
    ]


def test_list_ends_in_silence_when_its_reader_has_enough():
    command = "./benchmark.sh --list --seeds $(seq -s, 1 500) | head -1"
    _, output = finish(benchmark(ROOT, "-c", command, program="bash"))
    assert output.count("\n") == 1


@pytest.mark.parametrize("text", arms.names())
def test_an_arm_without_a_value_has_that_of_its_script(text):
    arm = arms.parse(text)
    scalar = arm.settings.keys() & {"kl_coef"}
    args = load("kl_scalar" if scalar else "clip").Args()
    expected = {name: getattr(args, name) for name in arm.settings}
    if text.endswith("adaptive"):
        expected["kl_target"] = 0.02  # the paper's; the script's default is none
    assert arm.settings == expected
    if arms.has_value(text):
        assert arms.parse(f"{text}={arm.value}0") == arm


@pytest.mark.parametrize(
    "text",
    ["pho", "", "../rules/spo", "draw", "spo_adaptive", "clip_quiet_adaptive", "clip=", "clip=1"]
    + ["dpo=0.3", "kl_fixed=0", "kl_adaptive=nan"],
)
def test_what_is_no_arm_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match=f"^{text or 'an empty name'} [^\n]+$"):
        arms.parse(text)


def test_the_hash_of_code_leaves_words_out_and_sees_all_else():
    text = script("clip").read_text()
    code = arms.code_hash(text)
    words = text.replace('"""PPO for', '"""Another PPO for').replace("  # ", "  # other ")
    assert words != text and arms.code_hash(words) == code
    for old, new in (("0.95", "0.96"), ("True", "False"), ('"losses/kl"', '"x"')):
        assert old in text
        assert arms.code_hash(text.replace(old, new, 1)) != code


@pytest.mark.parametrize(
    "flags, extra, named",
    [
        (["--steps", "many"], [], "--steps"),
        (["--jobs", "0"], [], "--jobs"),
        (["--seeds", "1,"], [], "--seeds"),
        (["--seeds=-1,1"], [], "--seeds"),
        (["--envs", "--list"], [], "--envs"),
        (["--arms", "clip,pho"], [], "--arms: pho"),
        (["--fast"], [], "--fast"),
        ([], ["--seed", "3"], "--seed"),
        ([], ["--clip_coef=0.1"], "--clip_coef=0.1"),
        # what the scripts themselves would refuse
        ([], ["--num-stps", "256"], "--num-stps"),
        ([], ["--help"], "after --"),
        (["--envs", "Hopper-v4,"], [], "--envs ''"),
        (["--seeds", "1,4000000000"], [], "--seeds"),
        (["--arms", "clip_quiet"], [], "'self.actor_logstd"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(copy, tmp_path, flags, extra, named):
    status, output = finish(benchmark(copy, "--out", tmp_path / "out", *flags, extra=extra))
    assert (status, output.count("\n")) == (2, 1), output
    assert output.startswith("benchmark.sh: error: ") and named in output
    assert not (tmp_path / "out").exists()


def test_a_missing_interpreter_is_named(copy):
    status, output = finish(benchmark(copy, PYTHON="pythonn"))
    assert (status, output.count("\n")) == (2, 1) and "pythonn is missing" in output


# --- runs that fail, and folders that hold others


def test_a_failed_run_is_shown_and_the_others_go_on(copy, tmp_path):
    grid = ["--out", tmp_path, "--envs", "Broken-v0,Hopper-v4", "--seeds", "1", "--arms", "klip"]
    status, output = finish(benchmark(copy, *grid))
    assert status == 1
    assert "Broken-v0__klip__1 FAILED with exit status 1" in output
    assert "the robot is broken" in output  # the end of its log
    assert "1/2 runs finished, 0 running, 1 failed" in output
    assert output.splitlines()[-2:] == ["runs", "report"]  # of those that have finished
    status, output = finish(benchmark(copy, *grid))
    assert (status, output.count("FAILED")) == (1, 1)  # tried again
    assert ended(tmp_path) == {"Hopper-v4__klip__1": 1}  # not run again


def test_settings_may_change_until_a_run_has_finished(copy, tmp_path):
    grid = ["--out", tmp_path, *HOPPER, "--arms", "klip"]
    other = ["--seconds", "0.1"]
    process = benchmark(copy, *grid, extra=["--seconds", "100"])
    wait_for((tmp_path / "Hopper-v4__klip__1/config.json").exists)
    status, output = finish(benchmark(copy, *grid, extra=other))
    assert (status, output.count("\n")) == (2, 1), output  # a run is under way
    assert "name another folder" in output
    process.terminate()
    finish(process)

    assert finish(benchmark(copy, *grid, extra=other))[0] == 0
    assert result(tmp_path / "Hopper-v4__klip__1")["seconds"] == 0.1
    held = (tmp_path / "settings").read_text()
    assert held == f"--total-timesteps 1000000 {' '.join(other)}\n"
    status, output = finish(benchmark(copy, *grid))
    assert (status, output.count("\n")) == (2, 1)
    assert "name another folder" in output and (tmp_path / "settings").read_text() == held


def test_sets_of_runs_share_a_folder_but_not_two_versions_of_a_script(copy, tmp_path):
    grid = ["--out", tmp_path, *HOPPER, "--arms"]
    assert finish(benchmark(copy, *grid, "kl_fixed=3,spo"))[0] == 0
    assert (tmp_path / "ppo_spo_continuous.py").exists()
    status, output = finish(benchmark(copy, *grid, "spo=0.3,spo,kl_fixed=3.0,kl_adaptive"))
    assert status == 0, output
    assert result(tmp_path / "Hopper-v4__spo=0.3__1")["clip_coef"] == 0.3
    assert set(ended(tmp_path).values()) == {1} and len(ended(tmp_path)) == 4

    file = tmp_path / "ppo_spo_continuous.py"
    file.write_text(f"# other words\n{file.read_text()}")
    assert finish(benchmark(copy, *grid, "spo"))[0] == 0
    file.write_text(f"{file.read_text()}\nx = 1\n")
    status, output = finish(benchmark(copy, *grid, "kl_fixed=3,spo"))
    assert (status, output.count("\n")) == (2, 1), output
    assert "ppo_spo_continuous.py has changed" in output and "x = 1" in file.read_text()


def test_a_slurm_array_job_does_one_line_of_the_list(copy, tmp_path):
    spool = tmp_path / "job0001" / "slurm_script"  # where Slurm puts its copy of the job script
    spool.parent.mkdir()
    shutil.copy(copy / "benchmark.sh", spool)
    grid = ["--out", tmp_path / "out", *HOPPER, "--arms", "clip=0.1,spo"]
    for task, arm in ((1, "spo"), (0, "clip=0.1"), (2, None)):
        environment = {"SLURM_SUBMIT_DIR": str(copy), "SLURM_ARRAY_TASK_ID": str(task)}
        process = benchmark(tmp_path, *grid, program=spool, **environment)
        status, output = finish(process)
        if arm is None:
            assert (status, output.count("\n")) == (2, 1) and "0-1" in output
        else:
            assert status == 0, output
            assert f"Hopper-v4__{arm}__1 finished: 1/1 runs finished" in output
            assert "report" not in output.splitlines()  # it is for the end of the whole array


# --- kills


def test_interrupted_while_it_checks_it_says_nothing(copy, tmp_path):
    mark = tmp_path / "checking"
    process = benchmark(copy, "--out", tmp_path / "out", *HOPPER, MARK_CHECK=str(mark))
    wait_for(mark.exists)
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process) == (-signal.SIGINT, "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_it_alone_ends_all_runs_and_it_goes_on_when_started_again(
    copy, tmp_path, number
):
    grid = ["--out", tmp_path, *HOPPER, "--arms", "clip,klip", "--jobs", "2"]
    process = benchmark(copy, *grid, extra=["--seconds", "100"])
    folders = [tmp_path / f"Hopper-v4__{arm}__1" for arm in ("clip", "klip")]
    wait_for(lambda: all((folder / "config.json").exists() for folder in folders))
    process.send_signal(number)
    status, output = finish(process)
    assert status == 128 + number and not processes(tmp_path)
    assert not any((folder / "result.json").exists() for folder in folders)
    assert output.count("\n") == 2

    for folder in folders:
        (folder / "left by the first start").touch()
    assert finish(benchmark(copy, *grid))[0] == 0
    assert set(ended(tmp_path).values()) == {1}
    for folder in folders:
        assert (folder / "result.json").exists()
        assert not (folder / "left by the first start").exists()


def test_what_ignores_the_end_of_its_terminal_runs_on(copy, tmp_path):
    grid = ["./benchmark.sh", "--out", tmp_path, *HOPPER, "--arms", "clip"]
    process = benchmark(copy, *grid, extra=["--seconds", "1"], program="nohup")
    wait_for((tmp_path / "Hopper-v4__clip__1/config.json").exists)
    process.send_signal(signal.SIGHUP)
    assert finish(process)[0] == 0 and (tmp_path / "Hopper-v4__clip__1/result.json").exists()


@pytest.mark.slow
def test_three_copies_share_the_work_though_they_are_killed(copy, tmp_path):
    grid = ["--out", tmp_path, "--envs", "Hopper-v4,HalfCheetah-v4", "--seeds", "1,2"]
    grid += ["--jobs", "1"]
    extra = ["--seconds", "0.2"]
    for _ in range(2):
        copies = [benchmark(copy, *grid, extra=extra) for _ in range(3)]
        time.sleep(1.5)
        for process, number in zip(copies, (signal.SIGKILL, signal.SIGINT), strict=False):
            process.send_signal(number)
        for process in copies:
            finish(process)
    copies = [benchmark(copy, *grid, extra=extra) for _ in range(2)]
    assert [finish(process)[0] for process in copies] == [0, 0]
    assert len(ended(tmp_path)) == 20 and set(ended(tmp_path).values()) == {1}
    wait_for(lambda: not processes(tmp_path), 10)


def test_a_run_held_by_another_copy_is_waited_for(copy, tmp_path):
    with open(tmp_path / "Hopper-v4__clip__1.log", "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        process = benchmark(copy, "--out", tmp_path, *HOPPER, "--arms", "clip")
        assert "0/1 runs finished" in process.stdout.readline()
        assert "Hopper-v4__clip__1 is under way in another copy" in process.stdout.readline()
        time.sleep(0.5)
        assert process.poll() is None
        assert not (tmp_path / "Hopper-v4__clip__1").exists()
    status, output = finish(process)  # closing the log gave the lock back
    assert status == 0
    assert "Hopper-v4__clip__1 finished" in output


# --- disks


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


def test_a_full_disk_is_the_reason_given(copy, small_disk):
    fill(small_disk)
    grid = ["--out", small_disk / "out", *HOPPER, "--jobs", "1", "--arms", "klip,phi"]
    status, output = finish(benchmark(copy, *grid))
    assert (status, output.count("\n")) == (2, 1)
    assert output.endswith("cannot be written: No space left on device\n")

    (small_disk / "filler").unlink()
    process = benchmark(copy, *grid, extra=["--seconds", "2"])
    wait_for((small_disk / "out/Hopper-v4__klip__1/config.json").exists)
    fill(small_disk)
    status, output = finish(process)
    assert status == 1
    lines = output.splitlines()
    assert len(lines) == 2  # the first says what is to come
    assert "cannot be written: No space left on device" in lines[1]


def test_a_deleted_folder_stops_it(copy, tmp_path):
    out = tmp_path / "out"
    grid = ["--out", out, *HOPPER, "--jobs", "1", "--arms", "klip,phi"]
    process = benchmark(copy, *grid, extra=["--seconds", "1"])
    wait_for((out / "Hopper-v4__klip__1/config.json").exists)
    shutil.rmtree(out)
    status, output = finish(process)
    assert status == 1
    lines = output.splitlines()
    assert len(lines) == 2 and "was deleted" in lines[1], output
    assert processes(out) == [] and not out.exists()


# --- verified, and all of it for real


def test_verify_says_whether_a_run_ends_in_the_committed_weights(copy):
    table = copy / "benchmark/results/runs.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    row = {"env_id": "Hopper-v4", "arm": "kl_fixed=3", "seed": 7, "weights_sha256": f"{7:064}"}
    row |= {"steps": 512, "flags": "--seconds 0.1", "code": arms.code_hash(STAND_IN)}
    expected = {
        "": (0, "Hopper-v4,kl_fixed=3,7: weights_sha256 0"),
        "weights_sha256": (1, "is NOT that of"),
        "code": (2, "has changed since"),
        "seed": (2, "has no run"),
    }
    for changed, (code, words) in expected.items():
        with open(table, "w") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerow(row | ({changed: "f" * 64} if changed else {}))
        cell = "Hopper-v4,kl_fixed=3,7"
        status, output = finish(benchmark(copy, "--verify", cell))
        assert status == code and words in output.splitlines()[-1], output
    found = result(copy / "runs/verify/Hopper-v4__kl_fixed=3__7")
    assert (found["kl_coef"], found["total_timesteps"], found["seconds"]) == (3, 512, 0.1)


@pytest.mark.slow
def test_the_real_scripts_are_run_and_reported(tmp_path):
    tiny = ["--num-steps", "256", "--num-minibatches", "4", "--update-epochs", "1"]
    grid = ["--out", tmp_path, *HOPPER, "--steps", "512", "--arms"]
    names = ["clip", "klip", "spo", "kl_mean_adaptive"]
    status, output = finish(benchmark(ROOT, *grid, ",".join(names), extra=tiny))
    assert status == 0, output
    for name in names:
        found = result(tmp_path / f"Hopper-v4__{name}__1")
        expected = {"exp_name": name, **arms.parse(name).settings}
        assert {key: found[key] for key in expected} == expected
    assert "| spo |" in (tmp_path / "results/report.md").read_text()
    with open(tmp_path / "results/runs.csv") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(names)
    assert rows["clip"]["weights_sha256"] == rows["klip"]["weights_sha256"]
    assert rows["clip"]["code"] == arms.code_hash(script("clip").read_text())
