"""benchmark.sh under real kills, and its report on runs made up to be read wrongly."""

import csv
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

sys.path.insert(0, str(ROOT / "benchmark"))
import report

TINY = ["--num-steps", "256", "--num-minibatches", "4", "--update-epochs", "1"]
HOPPER = ["--envs", "Hopper-v4", "--seeds", "1"]


def benchmark(*flags: str, extra: list[str] = TINY) -> subprocess.Popen:
    """Start benchmark.sh with flags, and those in extra for the scripts, in its own session."""
    return subprocess.Popen(
        ["./benchmark.sh", *map(str, flags), *(["--", *extra] if extra else [])],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
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
    status, output = finish(benchmark("--list", extra=[]))
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


@pytest.mark.parametrize(
    "flags, extra, named",
    [
        (["--steps", "many"], [], "--steps"),
        (["--jobs", "0"], [], "--jobs"),
        (["--seeds", "1,x"], [], "--seeds"),
        (["--arms", "clip,pho"], [], "--arms"),
        (["--envs"], [], "--envs"),
        (["--fast"], [], "--fast"),
        ([], ["--seed", "3"], "--seed"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(tmp_path, flags, extra, named):
    status, output = finish(benchmark("--out", tmp_path / "out", *flags, extra=extra))
    assert (status, output.count("\n")) == (2, 1)
    assert named in output
    assert not (tmp_path / "out").exists()


def test_a_failed_run_is_shown_and_the_others_go_on(tmp_path):
    grid = ["--out", tmp_path, "--envs", "Nope-v4,Hopper-v4", "--seeds", "1"]
    grid += ["--arms", "clip,klip", "--steps", "512"]
    status, output = finish(benchmark(*grid))
    assert status == 1
    assert "Nope-v4__klip__1 FAILED with exit status 2" in output
    assert "--env-id Nope-v4 cannot be made" in output  # the end of its log
    assert "2/4 runs finished, 0 running, 2 failed" in output
    assert "| Hopper-v4 | 1 |" in (tmp_path / "results/report.md").read_text()
    assert "identical" in (tmp_path / "results/report.md").read_text()

    results = sorted(tmp_path.glob("*/result.json"))
    times = [file.stat().st_mtime_ns for file in results]
    status, output = finish(benchmark(*grid))
    assert (status, len(results)) == (1, 2)
    assert output.count("FAILED") == 2  # tried again
    assert [file.stat().st_mtime_ns for file in results] == times  # not run again

    status, output = finish(benchmark(*grid[:-1], "1024"))
    assert status == 2 and "name another folder" in output


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


# ---- the report, on made-up runs


def curves(seed: int, iterations: int = 20) -> dict[str, np.ndarray]:
    """Made-up scalars [iterations] that depend on the seed alone."""
    rng = np.random.default_rng(seed)
    return {tag: rng.random(iterations).astype(np.float32) for tag in report.SHARED}


def write_run(root: Path, arm: str, seed: int = 1, change: dict | None = None, **other) -> Path:
    """A made-up finished run; `change` maps (tag, iteration from 1) to a value, or None for none.

    `other` overrides entries of result.json.
    """
    folder = root / f"Hopper-v4__{arm}__{seed}"
    folder.mkdir(parents=True)
    scalars, change = curves(seed), change or {}
    data = b""
    for tag, values in scalars.items():
        for i, y in enumerate(values, 1):
            y = change.get((tag, i), y)
            if y is not None:
                value = Summary.Value(tag=tag, simple_value=y)
                event = Event(step=2048 * i, summary=Summary(value=[value])).SerializeToString()
                head = struct.pack("<Q", len(event))
                data += head + struct.pack("<I", masked_crc32c(head))
                data += event + struct.pack("<I", masked_crc32c(event))
    (folder / "events.out.tfevents.1").write_bytes(data)
    result = {"env_id": "Hopper-v4", "seed": seed, "exp_name": arm, "run_dir": str(folder)}
    result |= {"total_timesteps": 40960, "num_envs": 1, "num_steps": 2048, "compile": False}
    result |= {"device": "cpu", "global_step": 40960, "episodic_return": 100.0 * seed}
    result |= {"versions": {"mujoco": "3.17.0", "python": "3.11"}, "kill_fraction": 0.1}
    result |= {"sps": 2000.0, "wall_time_s": 20.0, "weights_sha256": f"{seed:064}"}
    if arm.startswith("kl_"):
        result |= {"kl_coef": 1.0, "kl_target": 0.02 if arm == "kl_adaptive" else None}
    (folder / "result.json").write_text(json.dumps(result | other))
    return folder


def identity(root: Path, seed: int = 1) -> str:
    """What the report says of the weights of the three forms."""
    runs, left_out = report.collect(root)
    assert left_out == []
    return report.verdict(runs, "Hopper-v4", seed)


def test_report_holds_what_the_runs_hold(tmp_path):
    for arm in report.ARMS:
        for seed in (1, 2, 3, 4, 5) if arm == "clip" else (1,):
            write_run(tmp_path / "runs", arm, seed)
    report.main(str(tmp_path / "runs"), str(tmp_path / "a"))
    report.main(str(tmp_path / "runs"), str(tmp_path / "b"))
    names = {file.name for file in (tmp_path / "a").iterdir()}
    figures = {f"{name}.{kind}" for name in ("kl", "learning_curves", "partition")
               for kind in ("png", "svg")}  # fmt: skip
    assert names == figures | {"returns.csv", "curves.csv", "report.md"}
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    text = (tmp_path / "a/report.md").read_text()
    assert "| Hopper-v4 | PPO-Clip | 5 | 300 ± 141 |" in text
    assert "| 300 | 2598 ± 278 |" in text  # interquartile mean, the paper's
    assert "| Hopper-v4 | fixed β = 1 | 1 | 100 | – | 100 | 2616 ± 208 |" in text
    assert "Identical in 1 of the 1 cells that have all three." in text
    assert "one experiment, not three" in text
    with open(tmp_path / "a/returns.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert rows[1]["weights_sha256"] == f"{2:064}" and rows[1]["mujoco"] == "3.17.0"
    with open(tmp_path / "a/curves.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 * 20
    assert float(rows[3]["kl"]) == pytest.approx(float(curves(1)["losses/kl"][3]), rel=1e-4)


def test_identity_names_the_first_iteration_that_differs(tmp_path):
    write_run(tmp_path, "clip")
    write_run(tmp_path, "phi")
    later = {("charts/episodic_return", 9): 7.0, ("losses/kl", 6): 0.5}
    folder = write_run(tmp_path, "klip", change=later, weights_sha256="f" * 64)
    expected = "clip and klip part in iteration 6 (losses/kl"
    assert identity(tmp_path).startswith(expected)

    shutil.rmtree(folder)
    assert identity(tmp_path) == "identical (klip missing)"
    assert "cells that have all three" not in markdown(tmp_path)

    # an episode that ended in one run only is a difference, too
    write_run(tmp_path, "klip", change={("charts/episodic_return", 4): None}, weights_sha256="f")
    assert "iteration 4 (charts/episodic_return" in identity(tmp_path)
    assert "0 of the 1" in markdown(tmp_path)
    assert "one experiment" not in markdown(tmp_path)


def markdown(root: Path) -> str:
    """The identity table of the report."""
    return report.Report(*report.collect(root), root).identity_table()


def damage(folder: Path, keep: float) -> None:
    """Keep only the first part of a run's event file."""
    file = folder / "events.out.tfevents.1"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda f: damage(f, 0.99), "event file truncated"),
        (lambda f: damage(f, 0.0), "event file truncated"),
        (lambda f: (f / "events.out.tfevents.2").touch(), "2 event files"),
        (lambda f: (f / "result.json").write_text('{"env_id": '), "result.json cannot be read"),
        (lambda f: (f / "result.json").write_text("[]"), "not that of a run"),
        (lambda f: (f / "result.json").unlink(), "not finished"),
        (lambda f: f.rename(f.with_name("Hopper-v4__clip__9")), "foreign run"),
    ],
)
def test_what_cannot_be_read_is_named_and_left_out(tmp_path, spoil, reason):
    write_run(tmp_path, "klip")
    spoil(write_run(tmp_path, "clip"))
    runs, (line,) = report.collect(tmp_path)
    assert list(runs) == [("Hopper-v4", "klip", 1)]
    assert line.startswith("Hopper-v4__clip__") and reason in line


@pytest.mark.parametrize(
    "other, reason",
    [
        ({"versions": {"mujoco": "3.1", "python": "3.11"}}, "mujoco 3.1 instead of 3.17.0"),
        ({"total_timesteps": 50000}, "total_timesteps 50000 instead of 40960"),
        ({"device": "cuda"}, "device cuda instead of cpu"),
        ({"kl_coef": 2.0}, "foreign run"),
    ],
)
def test_runs_made_otherwise_are_not_averaged_in(tmp_path, other, reason):
    write_run(tmp_path, "kl_fixed", 1)
    write_run(tmp_path, "kl_fixed", 2)
    write_run(tmp_path, "kl_fixed", 3, **other)
    runs, (line,) = report.collect(tmp_path)
    assert [seed for _, _, seed in runs] == [1, 2]
    assert line.startswith("Hopper-v4__kl_fixed__3: ") and reason in line


def test_no_runs_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="no finished run"):
        report.main(str(tmp_path), str(tmp_path / "results"))
    assert not (tmp_path / "results").exists()


def test_statistics():
    assert report.iqm(np.array([9.0, 1.0, 2.0, 3.0, -50.0])) == 2.0
    assert report.interval(np.array([4.0])) is None
    low, high = report.interval(np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    assert 0.5 < low < 1.2 and 2.8 < high < 3.5  # normal: 2 +- 1.96 * sqrt(2 / 5) = 0.76, 3.24
    bins = report.binned(np.float32([1, 3, np.nan, 5, np.nan, np.nan, 7]), 2)
    np.testing.assert_array_equal(bins, [2, 5, np.nan, 7])


def test_paper_table_agrees_with_its_curves():
    table = report.read_csv(ROOT / "benchmark/paper_table.csv")
    points = report.read_csv(ROOT / "benchmark/paper_curves.csv")
    for row in table:
        arm = "clip" if row["arm"] == "klip" else row["arm"]
        key = row["env_id"], arm
        end = [float(p["mean"]) for p in points
               if (p["env_id"], p["arm"]) == key and int(p["step"]) > 900_000]  # fmt: skip
        assert np.mean(end) == pytest.approx(float(row["mean"]), rel=0.03, abs=2)
