"""The report, on made-up runs: what it says of them, and which it must not believe."""

import csv
import json
import os
import resource
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
import arms
import choose
import collect
import compare
import noise
import pooled
import report
from collect import Results

ITERATIONS = 20
SCALARS = [*collect.EPISODIC, *(tag for tag in collect.LOGGED if tag != "charts/SPS")]
SCALARS += collect.RATIOS


def record(step: int, tag: str, value: float) -> bytes:
    """One scalar as it stands in an event file."""
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    event = Event(step=step, summary=summary).SerializeToString()
    head = struct.pack("<Q", len(event))
    checked = [head, struct.pack("<I", masked_crc32c(head))]
    return b"".join([*checked, event, struct.pack("<I", masked_crc32c(event))])


def write_events(folder: Path, scalars: dict[str, np.ndarray]) -> None:
    """An event file with one value per iteration of each scalar; NaN: none."""
    data = b""
    for i in range(ITERATIONS):
        for tag, values in scalars.items():
            if not np.isnan(values[i]):
                data += record(2048 * (i + 1), tag, values[i])
    (folder / "events.out.tfevents.1").write_bytes(data)


def made_up(seed: int, sps: float) -> dict[str, np.ndarray]:
    """Scalars [iterations] that depend on the seed alone, but for the last steps/s."""
    rng = np.random.default_rng(seed)
    scalars = {"charts/SPS": rng.random(ITERATIONS) + sps}
    scalars |= {tag: 0.01 + rng.random(ITERATIONS) for tag in SCALARS}
    scalars["charts/SPS"][-1] = sps
    return scalars


def write_run(root: Path, arm: str = "clip", seed: int = 1, env_id: str = "Hopper-v4", **other):
    """A made-up finished run; `other` are entries of result.json."""
    folder = root / f"{env_id}__{arm}__{seed}"
    folder.mkdir(parents=True)
    sps = 2000.0 + sum(folder.name.encode()) / 7
    write_events(folder, made_up(seed, sps))
    settings = {"clip_coef": 0.2} | arms.parse(arm).settings
    result = {
        "env_id": env_id,
        "seed": seed,
        "exp_name": arm,
        "run_dir": str(folder),
        "total_timesteps": 2048 * ITERATIONS,
        "num_envs": 1,
        "num_steps": 2048,
        "compile": False,
        **settings,
        "device": "cpu",
        "versions": dict.fromkeys(collect.VERSIONS, "1.0"),
        "global_step": 2048 * ITERATIONS,
        "episodic_return": 100.0 * seed,
        "kill_fraction": 0.1,
        "sps": sps,
        "wall_time_s": 20.0,
        "weights_sha256": f"{seed:064}",
    }
    (folder / "result.json").write_text(json.dumps(result | other))
    return folder


def write_failure(
    root: Path, arm: str, seed: int, last: str = "x.py: error: the weights are NaN", **other
) -> None:
    """A made-up run whose log ends with this line."""
    folder = write_run(root, arm, seed, **other)
    (folder / "result.json").rename(folder / "config.json")
    folder.with_name(f"{folder.name}.log").write_text(f"begun\n{last}\n")


def keys(runs: list) -> list[tuple]:
    """Which runs these are."""
    return [run.key for run in runs]


def markdown(root: Path) -> str:
    """report.md of the runs in a folder."""
    runs, left_out = collect.read_folders(root)
    return report.markdown(choose.sort_runs(runs), left_out)


def refused(capsys, *arguments: object, code: int) -> str:
    """The one line with which the report ends."""
    with pytest.raises(SystemExit) as end:
        report.main([str(argument) for argument in arguments])
    output = capsys.readouterr().err
    assert (end.value.code, output.count("\n")) == (code, 1), output
    return output


# ---- what the report says


def test_a_run_that_ended_in_nan_is_told_and_kept(tmp_path, capsys):
    """Not one that is under way, nor one that has finished since."""
    for seed in (1, 2, 3):
        write_run(tmp_path / "runs", "clip", seed)
    for seed in (1, 2, 3):
        write_failure(tmp_path / "runs", "cispo", seed)
    write_failure(tmp_path / "runs", "cispo", 4, last="4096/20480 steps, 2000 steps/s")
    (tmp_path / "runs/Hopper-v4__cispo__1/config.json").rename(
        tmp_path / "runs/Hopper-v4__cispo__1/result.json"
    )
    report.main([str(tmp_path / "runs"), str(tmp_path / "a")])
    failed = "Hopper-v4,cispo,2,the weights are NaN\nHopper-v4,cispo,3,the weights are NaN\n"
    for _ in range(2):  # made anew from the CSV files alone, the same
        text = (tmp_path / "a/report.md").read_text()
        assert "| cispo | 100 (1 of 3) |" in text  # and no mark for a single seed
        assert "* Hopper-v4, cispo, seed 3: the weights are NaN\n" in text
        assert (tmp_path / "a/failed.csv").read_text() == f"env_id,arm,seed,reason\n{failed}"
        report.main([str(tmp_path / "a")])

    write_run(tmp_path / "more", "cispo", 2)
    report.main([str(tmp_path / "more"), str(tmp_path / "b"), "--with", str(tmp_path / "a")])
    assert "cispo, seed 2" not in (tmp_path / "b/report.md").read_text()
    assert (tmp_path / "b/failed.csv").read_text().count("\n") == 2

    log = tmp_path / "runs/Hopper-v4__cispo__3.log"
    log.write_text("x.py: error: another reason\n")  # tried again
    report.main([str(tmp_path / "runs"), str(tmp_path / "a")])
    assert (tmp_path / "a/failed.csv").read_text().endswith("cispo,3,another reason\n")
    (tmp_path / "a/failed.csv").write_text("env_id,arm,seed,reason\nHopper-v4,nope,1,x\n")
    capsys.readouterr()
    assert "failed.csv, line 2: nope is no arm" in refused(capsys, tmp_path / "a", code=2)


def test_failures_count_where_their_runs_would(tmp_path, capsys):
    for seed in (1, 2, 3):
        write_run(tmp_path / "clip", "clip", seed)
    report.main([str(tmp_path / "clip"), str(tmp_path / "results")])
    write_failure(tmp_path / "alone", "cispo", 1)  # with no finished run beside it
    write_failure(tmp_path / "alone", "cispo", 2, compile=True)
    capsys.readouterr()
    report.main([str(tmp_path / "alone"), str(tmp_path / "results")])
    assert "Hopper-v4__cispo__2: compile True instead of False" in capsys.readouterr().err
    failed = "env_id,arm,seed,reason\nHopper-v4,cispo,1,the weights are NaN\n"
    assert (tmp_path / "results/failed.csv").read_text() == failed

    write_run(tmp_path / "odd", "clip", 1, compile=True)
    write_failure(tmp_path / "odd", "cispo", 3, compile=True)
    report.main([str(tmp_path / "odd"), str(tmp_path / "compiled")])
    report.main(
        [str(tmp_path / "clip"), str(tmp_path / "results"), "--with", str(tmp_path / "compiled")]
    )
    assert (tmp_path / "results/failed.csv").read_text() == failed


def test_runs_of_several_versions_of_a_script_or_on_several_processors(tmp_path):
    for arm, cpu, script in (("clip", "a", "x"), ("phi", "b", "y"), ("klip", "b", "z")):
        for seed in (1, 2, 3):
            versions = dict.fromkeys(collect.VERSIONS, "1.0") | {"cpu": cpu, "script": script}
            if arm == "clip" and seed > 1:
                versions |= {"cpu": "", "script": "w" * 64}
            sha = "the same" if seed == 3 else arm
            write_run(tmp_path / "runs", arm, seed, versions=versions, weights_sha256=sha)
    report.main([str(tmp_path / "runs"), str(tmp_path / "a")])
    text = (tmp_path / "a/report.md").read_text()
    assert text.count("| not comparable: ") == 2
    assert "Identical in 1 of the 1 cells" in text
    assert text.count("was changed between its runs") == 1
    assert "PPO-Clip was changed between its runs: x (seeds 1); wwwwwwww (seeds 2, 3).\n" in text
    rows = collect.read_csv(tmp_path / "a/returns.csv")
    assert (rows[0]["cpu"], rows[0]["script"]) == ("a", "x")
    report.main([str(tmp_path / "a")])
    assert (tmp_path / "a/report.md").read_text() == text


def test_a_copy_that_logged_its_ratios_stands_for_the_clips_run(tmp_path):
    clip, klip = (collect.read_run(write_run(tmp_path, arm)) for arm in ("clip", "klip"))
    clip.curve["q50"][:] = np.nan
    (found,) = choose.without_copies(Results([clip, klip])).runs
    assert found.key == clip.key and choose.has_ratios(found)


def test_it_holds_what_the_runs_hold(tmp_path):
    for arm in arms.PAPER:
        for seed in (1, 2, 3, 4, 5) if arm == "clip" else (1, 2, 3):
            write_run(tmp_path / "runs", arm, seed, episodic_return=100.0 * seed + len(arm))
    report.main([str(tmp_path / "runs"), str(tmp_path / "a")])
    names = {file.name for file in (tmp_path / "a").iterdir()}
    drawn = ("returns", "learning_curves", "kl", "partition", "why", "entropy")
    figures = {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    assert names == figures | {"returns.csv", "curves.csv", "report.md"}

    text = (tmp_path / "a/report.md").read_text()
    assert "| Hopper-v4 | PPO-Clip | 104, 204, 304, 404, 504 | 304 ± 141 | 108 to 500 |" in text
    assert "| Hopper-v4 | fixed β = 1 | 108, 208, 308 | 208 ± 82 | −40 to 456 |" in text
    assert "| 2598 ± 278 |" in text  # the paper's
    assert "| fixed β = 1 | −96 (" in text
    assert "| 3 | +4 (4 to 4) | 0.25 |" in text  # paired by seed: all 4 above the clip
    assert "Identical in 3 of the 3 cells that have all three." in text
    assert "Φ | 10" not in text  # the clip's runs stand for it
    rows = collect.read_csv(tmp_path / "a/returns.csv")
    assert len(rows) == 5 + 4 * 3
    assert rows[1]["weights_sha256"] == f"{2:064}" and rows[1]["mujoco"] == "1.0"
    rows = collect.read_csv(tmp_path / "a/curves.csv")
    assert len(rows) == 17 * ITERATIONS
    columns = {"kl": "losses/kl", "entropy": "losses/entropy", "q99": "ratio/q99"}
    for column, tag in columns.items():
        assert float(rows[3][column]) == pytest.approx(made_up(1, 0)[tag][3], rel=1e-3)


def test_identity_names_the_first_point_that_differs(tmp_path):
    write_run(tmp_path, "clip")
    write_run(tmp_path, "phi")
    folder = write_run(tmp_path, "klip", weights_sha256="f" * 64)
    scalars = made_up(1, 2000.0 + sum(folder.name.encode()) / 7)
    scalars["losses/kl"][5] = 0.5
    scalars["charts/episodic_return"][8] = 7.0
    write_events(folder, scalars)
    assert "clip and klip part by step 12288 (kl" in markdown(tmp_path)
    assert "Identical in 0 of the 1 cells" in markdown(tmp_path)

    # an episode that ended in one run only is a difference, too
    for tag in collect.EPISODIC:
        scalars[tag][3] = np.nan
    write_events(folder, scalars)
    assert "by step 8192 (return" in markdown(tmp_path)
    assert "one experiment" not in markdown(tmp_path)

    shutil.rmtree(folder)
    assert "| identical (klip missing) |" in markdown(tmp_path)
    assert "cells that have all three" not in markdown(tmp_path)


def test_the_sweep_chooses_on_tuning_seeds_and_reports_on_test_seeds(tmp_path):
    scores = {"clip": 100.0, "kl_fixed=3": 60.0, "kl_fixed=10": 50.0}
    for env_id in ("Ant-v4", "Humanoid-v4"):
        for seed in (11, 12):
            for arm, score in scores.items():
                better_on_ant = 30.0 * (env_id == "Ant-v4" and arm == "kl_fixed=10")
                final = score + better_on_ant + seed
                write_run(tmp_path, arm, seed, env_id, episodic_return=final)
        for arm, score in scores.items():
            # on the test seeds it is the other way round, which must not change the choice
            write_run(tmp_path, arm, 1, env_id, episodic_return=1000 - score)
    text = markdown(tmp_path)
    assert "| Ant-v4 | fixed β | 2 | 10 | 10 |" in text
    assert "| Humanoid-v4 | fixed β | 2 | 3 | 10 |" in text
    tuning, test = text.split("### On the test seeds")
    assert "| Ant-v4 | fixed β = 10 | 91, 92 |" in tuning
    assert "| Ant-v4 | fixed β = 10 | 950 |" in test and "91, 92" not in test
    assert "| Humanoid-v4 | fixed β = 10 | +50 (–) | 1 |" in test
    assert "![Quantiles of the ratio over training](why.png)" in text
    assert "![Steps per episode over the entropy of the policy](entropy.png)" in text


def test_the_length_of_episodes_is_the_median_of_those_that_are_known(tmp_path):
    folder = write_run(tmp_path)
    scalars = made_up(1, json.loads((folder / "result.json").read_text())["sps"])
    scalars["charts/episodic_length"] = np.array([40.0] * 10 + [30.0] * 7 + [np.nan] * 3)
    scalars["charts/episodic_return"][17:] = np.nan
    write_events(folder, scalars)
    run = collect.read_run(folder)
    assert run.median_length == 40  # 35, did the last three count as 0
    run.curve["length"][:] = np.nan
    assert np.isnan(run.median_length)


def test_results_of_before_a_column_was_added_are_kept(tmp_path):
    runs, to = tmp_path / "runs", tmp_path / "results"
    write_run(runs)
    report.main([str(runs), str(to)])
    rows = list(csv.DictReader((to / "curves.csv").open()))
    old = [column for column in rows[0] if column not in ("length", "entropy")]
    with (to / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, old, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    report.main([str(to)])
    (run,) = collect.read_results(to)
    assert np.isnan(run.median_length) and run.median_kl > 0
    without_kl = (to / "curves.csv").read_text().replace(",kl,", ",lk,")
    (to / "curves.csv").write_text(without_kl)
    with pytest.raises(collect.Unusable, match="line 2: no kl"):
        collect.read_results(to)


def test_a_tuning_seed_without_a_setting_is_no_sweep(tmp_path):
    write_run(tmp_path, "clip", 1)
    write_run(tmp_path, "clip", 11)
    text = markdown(tmp_path)
    assert "Sweep" not in text and "* Seeds 11, 12, 13 are for tuning" in text
    assert "| PPO-Clip | 100 |" in text
    write_run(tmp_path, "clip=0.1", 11)
    text = markdown(tmp_path)
    assert "| Hopper-v4 | PPO-Clip, ε | 2 |" in text and "the clip of the value loss" in text


def test_the_aggregate_is_in_units_of_the_clip(tmp_path):
    for env_id in ("Ant-v4", "Humanoid-v4"):
        for seed in (1, 2, 3):
            write_run(tmp_path, "clip", seed, env_id)
            write_run(tmp_path, "kl_fixed", seed, env_id, episodic_return=50.0 * seed)
    text = markdown(tmp_path)
    assert "| PPO-Clip | 6 | 1.00 (–) |" in text
    assert "| fixed β = 1 | 6 | 0.50 (" in text


def test_shapes_stand_beside_the_clip(tmp_path):
    shape = "cispo"
    for seed in (1, 2, 3):
        write_run(tmp_path, "clip", seed)
        write_run(tmp_path, shape, seed, episodic_return=100.0 * seed - 10)
    text = markdown(tmp_path)
    assert "(shapes.png)" in text and "(shapes_kl.png)" in text
    assert f"| Hopper-v4 | {shape} | 90, 190, 290 |" in text
    assert "| 3 | −10 (−10 to −10) | 0.25 |" in text
    assert "Sweep" not in text


def test_a_shape_is_marked_where_all_its_seeds_are_beyond_all_of_the_clips(tmp_path):
    returns = {"clip": (100, 300), "cispo": (20, 99), "dpo": (301, 400), "spo": (301, 300)}
    for arm, values in returns.items():
        for seed, value in enumerate(values, 1):
            write_run(tmp_path, arm, seed, episodic_return=float(value))
    text = markdown(tmp_path)
    for row in ("PPO-Clip | 200", "cispo | 60 ▼", "dpo | 350 ▲", "spo | 300"):
        assert f"| {row} |" in text
    assert text.count("▲ |") == text.count("▼ |") == 1


def test_no_episode_in_time_and_a_single_seed_are_no_numbers(tmp_path):
    write_run(tmp_path, "clip", 1)
    write_run(tmp_path, "kl_fixed", 1, episodic_return=None)
    text = markdown(tmp_path)
    assert "| fixed β = 1 | no episode ended in time | – | – |" in text
    assert "| PPO-Clip | 100 | – | – |" in text
    assert "nan" not in text


# ---- results that accumulate


def test_results_accumulate(tmp_path, capsys):
    first, second, to = tmp_path / "first", tmp_path / "second", tmp_path / "results"
    write_run(first, "clip", 1)
    write_run(first, "clip", 2)
    report.main([str(first), str(to)])
    before = {file.name: file.read_bytes() for file in to.iterdir()}
    report.main([str(to)])  # from the two CSV files alone
    assert {file.name: file.read_bytes() for file in to.iterdir()} == before

    write_run(second, "clip", 2, episodic_return=7.0)
    write_run(second, "clip", 3)
    (write_run(second, "clip", 4) / "result.json").unlink()
    report.main([str(second), str(to)])
    assert "clip__4: not finished" in capsys.readouterr().err
    assert "not finished" not in (to / "report.md").read_text()
    runs = collect.read_results(to)
    assert [run.seed for run in runs] == [1, 2, 3]
    assert [run.episodic_return for run in runs] == [100.0, 7.0, 300.0]
    old = before["curves.csv"].decode().splitlines()
    assert (to / "curves.csv").read_text().splitlines()[: 1 + ITERATIONS] == old[: 1 + ITERATIONS]

    elsewhere = tmp_path / "elsewhere"
    write_run(tmp_path / "third", "phi", 3)
    report.main([str(tmp_path / "third"), str(elsewhere)])
    report.main([str(second), str(to), "--with", str(elsewhere)])
    assert keys(collect.read_results(to))[-1] == ("Hopper-v4", "phi", 3)


def test_other_weights_of_the_same_run_are_named(tmp_path):
    write_run(tmp_path / "a", "clip", 1)
    write_run(tmp_path / "b", "clip", 1, weights_sha256="f" * 64)
    runs = [collect.read_folders(tmp_path / name)[0][0] for name in "ab"]
    (run,), (line,) = collect.merge(runs)
    assert run.weights_sha256 == "f" * 64
    assert "Hopper-v4__clip__1" in line and "other weights" in line


def test_results_made_otherwise_are_neither_lost_nor_do_they_push_out_runs_at_hand(
    tmp_path, capsys
):
    committed, runs, to = tmp_path / "committed", tmp_path / "runs", tmp_path / "results"
    for seed in (1, 2, 3):
        write_run(committed, "clip", seed)
    report.main([str(committed), str(to)])
    before = {file.name: file.read_bytes() for file in to.iterdir()}
    write_run(runs, "clip", 1, compile=True, episodic_return=7.0)
    write_run(runs, "clip", 4, compile=True, device="cuda")
    write_run(runs, "clip", 5, compile=True)
    capsys.readouterr()
    line = refused(capsys, runs, to, code=2)
    assert "keeps 3 runs that were made otherwise (compile False instead of True)" in line
    assert f"python benchmark/report.py {runs} OTHER" in line
    assert {file.name: file.read_bytes() for file in to.iterdir()} == before

    # elsewhere the runs at hand decide, although there are more of the others
    report.main([str(runs), str(tmp_path / "other"), "--with", str(to)])
    text = (tmp_path / "other/report.md").read_text()
    assert "* 2 runs of" in text and "| PPO-Clip | 7, 500 |" in text
    assert "* Hopper-v4__clip__4: device cuda instead of cpu" in text
    assert "* Hopper-v4__clip__2: compile False instead of True" in text

    # without a usable run at hand the earlier ones stay
    for seed in (1, 4, 5):
        (runs / f"Hopper-v4__clip__{seed}/result.json").write_text("")
    report.main([str(runs), str(to)])
    assert (to / "returns.csv").read_bytes() == before["returns.csv"]


def test_damaged_results_are_refused_and_kept(tmp_path, capsys):
    write_run(tmp_path / "runs")
    to = tmp_path / "results"
    report.main([str(tmp_path / "runs"), str(to)])
    for name in ("curves.csv", "returns.csv"):
        whole = (to / name).read_bytes()
        for cut in (0, len(whole) // 2, len(whole) - 20):
            (to / name).write_bytes(whole[:cut])
            assert refused(capsys, tmp_path / "runs", to, code=2).count(str(to)) == 1
            assert (to / name).read_bytes() == whole[:cut]
        (to / name).write_bytes(whole)


def test_findings_quotes_the_returns_of_its_trials():
    """Of those on Ant with three seeds or more, which stand in no report."""
    returns: dict[str, list[str]] = {}
    for row in collect.read_csv(ROOT / "benchmark/results/trials/returns.csv"):
        if row["env_id"] == "Ant-v4":
            found = returns.setdefault(row["arm"], [])
            found.append(f"{float(row['episodic_return']):.0f}")
    text = (ROOT / "benchmark/FINDINGS.md").read_text().replace(" and ", ", ")
    several = [", ".join(found) for found in returns.values() if len(found) >= 3]
    assert len(several) == 14
    assert all(quoted in text for quoted in several)


def test_readme_and_findings_quote_the_pooled_tables():
    tables = pooled.tables()
    readme = (ROOT / "README.md").read_text()
    findings = (ROOT / "benchmark/FINDINGS.md").read_text()
    for text, quoted in [(readme, tables[:1]), (findings, tables[1:])]:
        for table in quoted:
            rows = table.splitlines()[2:]
            assert len(rows) >= 3 and "\n".join(["", *rows, ""]) in text


def test_findings_quotes_the_table_of_the_noise():
    header, _, *rows = noise.table().splitlines()
    text = (ROOT / "benchmark/FINDINGS.md").read_text()
    _, *quoted = text.split(header)[1].split("\n\n")[0].strip().splitlines()
    assert len(quoted) >= 10
    assert set(quoted) <= set(rows)
    assert noise.sorted_by_tail() in " ".join(text.split())


@pytest.mark.parametrize(
    ("name", "cell", "seeds"),
    [
        ("results", ("Humanoid-v4", "klip"), [1, 2, 3, 4, 5]),
        ("results/further", ("HalfCheetah-v4", "clip"), list(range(21, 31))),
    ],
)
def test_committed_results_can_be_read_and_are_small(name, cell, seeds):
    folder = ROOT / "benchmark" / name
    runs = collect.read_results(folder)
    kept, left_out = collect.agree(runs, collect.common_setup(runs))
    assert left_out == [] and len(kept) >= 75
    assert (folder / "curves.csv").stat().st_size / len(runs) < 15_000
    assert [run.seed for run in runs if run.key[:2] == cell] == seeds
    assert collect.curves_csv(Results(runs).runs) == (folder / "curves.csv").read_bytes()
    assert collect.returns_csv(Results(runs).runs) == (folder / "returns.csv").read_bytes()


# ---- what must not be believed


def cut(folder: Path, size: int) -> None:
    """Take the last bytes of a run's event file away."""
    file = folder / "events.out.tfevents.1"
    file.write_bytes(file.read_bytes()[:-size])


def swap(folder: Path, **other) -> None:
    """Put another run's event file into a run's folder."""
    donor = write_run(folder.parent / "elsewhere", **other)
    shutil.copy(donor / "events.out.tfevents.1", folder)
    shutil.rmtree(donor.parent)


def put(folder: Path, **other) -> None:
    """Change entries of a run's result.json."""
    file = folder / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | other))


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda f: cut(f, 1), "event file cut"),
        (lambda f: cut(f, 70), "event file cut"),
        (lambda f: cut(f, 5000), "event file cut"),
        (lambda f: (f / "events.out.tfevents.1").write_bytes(b""), "event file incomplete"),
        (lambda f: (f / "events.out.tfevents.2").touch(), "2 event files"),
        (lambda f: swap(f, seed=2), "event file of another run"),
        (lambda f: swap(f, env_id="Ant-v4"), "event file of another run"),
        (lambda f: (f / "result.json").write_text('{"env_id": '), "result.json cannot be read"),
        (lambda f: (f / "result.json").write_text("[]"), "not that of a run"),
        (lambda f: (f / "result.json").unlink(), "not finished"),
        (lambda f: put(f, episodic_return="good"), "episodic_return 'good'"),
        (lambda f: put(f, episodic_return=float("nan")), "episodic_return nan"),
        (lambda f: put(f, sps=None), "sps None"),
        (lambda f: put(f, seed="1"), "seed '1'"),
        (lambda f: put(f, seed=True), "seed True"),
        (lambda f: put(f, global_step=0), "without a single iteration"),
        (lambda f: put(f, global_step=10**30), "global_step"),
        (lambda f: put(f, versions="new"), "versions"),
        (lambda f: put(f, exp_name="nonsense"), "nonsense is no arm"),
        (lambda f: put(f, clip_coef=0.1), "foreign run: clip_coef 0.1"),
        (lambda f: f.rename(f.with_name("Hopper-v4__clip__9")), "foreign run"),
    ],
)
def test_what_cannot_be_read_is_named_and_left_out(tmp_path, spoil, reason):
    write_run(tmp_path, "klip")
    spoil(write_run(tmp_path, "clip"))
    runs, (line,) = collect.read_folders(tmp_path)
    assert keys(runs) == [("Hopper-v4", "klip", 1)]
    assert line.startswith("Hopper-v4__clip__") and reason in line


def test_events_cut_between_two_records_are_noticed(tmp_path):
    folder = write_run(tmp_path)
    whole = (folder / "events.out.tfevents.1").read_bytes()
    scalars = made_up(1, 2000.0 + sum(folder.name.encode()) / 7)
    end = len(whole)
    for tag in reversed(list(scalars)):
        end -= len(record(2048 * ITERATIONS, tag, 1.0))
        (folder / "events.out.tfevents.1").write_bytes(whole[:end])
        _, (line,) = collect.read_folders(tmp_path)
        assert "event file incomplete" in line


@pytest.mark.parametrize(
    "other, reason",
    [
        ({"versions": dict.fromkeys(collect.VERSIONS, "2.0")}, "mujoco 2.0 instead of 1.0"),
        ({"total_timesteps": 50000}, "total_timesteps 50000 instead of 40960"),
        ({"device": "cuda"}, "device cuda instead of cpu"),
    ],
)
def test_runs_made_otherwise_are_named_and_left_out(tmp_path, other, reason):
    for seed in (1, 2):
        write_run(tmp_path, "kl_fixed", seed, cuda=bool(seed % 2))  # means nothing on a CPU
    write_run(tmp_path, "kl_fixed", 3, **other)
    found, _ = collect.read_folders(tmp_path)
    runs, (line,) = collect.agree(found, collect.common_setup(found))
    assert [run.seed for run in runs] == [1, 2]
    assert line.startswith("Hopper-v4__kl_fixed__3: ") and reason in line


# ---- the command


def test_help_and_bad_arguments(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        report.main(["--help"])
    assert not end.value.code
    capsys.readouterr()
    for arguments in ([], ["a", "b", "c"], ["--fast", "a", "b"], [tmp_path / "none", tmp_path]):
        refused(capsys, *arguments, code=2)
    (tmp_path / "runs").mkdir()
    line = refused(capsys, tmp_path / "runs", tmp_path / "results", code=1)
    assert "no finished run" in line
    assert not (tmp_path / "results").exists()


def test_a_full_disk_leaves_the_old_report(tmp_path):
    write_run(tmp_path / "runs")
    report.main([str(tmp_path / "runs"), str(tmp_path / "results")])
    before = {file.name: file.read_bytes() for file in (tmp_path / "results").iterdir()}
    write_run(tmp_path / "runs", "klip")

    def little_space() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # EFBIG, as ENOSPC elsewhere

    outcome = subprocess.run(
        [sys.executable, "benchmark/report.py", tmp_path / "runs", tmp_path / "results"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=little_space,
    )
    assert (outcome.returncode, outcome.stderr.count("\n")) == (1, 1), outcome.stderr
    assert "cannot be written" in outcome.stderr
    after = {file.name: file.read_bytes() for file in (tmp_path / "results").iterdir()}
    assert after == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.3, 3.0])  # in the imports, and waiting for the pipe
def test_a_signal_ends_it_in_silence(tmp_path, number, seconds):
    folder = write_run(tmp_path / "runs", "clip", 1)
    (folder / "result.json").unlink()
    os.mkfifo(folder / "result.json")  # whoever reads it waits for ever
    process = subprocess.Popen(
        [sys.executable, "benchmark/report.py", tmp_path / "runs", tmp_path / "results"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    time.sleep(seconds)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (-number, b"")


# ---- numbers


def test_statistics():
    five = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    # t = 2.776 with 4 degrees of freedom, sd = 1.5811
    assert compare.mean(five) == pytest.approx((2.0, 2 - 1.9633, 2 + 1.9633), abs=1e-3)
    assert np.isnan(compare.mean(np.array([4.0])).low)
    assert compare.mean(five[:3]) == pytest.approx((1.0, 1 - 2.4841, 1 + 2.4841), abs=1e-3)
    # equal variances and sizes: Welch is Student's with 8 degrees, t = 2.306, se = 1
    assert compare.difference(five + 10, five) == pytest.approx((10, 7.694, 12.306), abs=1e-3)
    assert np.isnan(compare.difference(np.ones(3), np.ones(3)).low)
    # two numbers may lie close by luck, and so have no interval
    assert compare.mean(five[:2]) == pytest.approx((0.5, np.nan, np.nan), nan_ok=True)
    assert compare.difference(five[:2], five).value == -1.5
    assert np.isnan(compare.difference(five[:2], five).low)
    assert np.isnan(compare.aggregate([five[:2] + 1], [five + 1]).low)
    assert compare.sign_flip(five + 1) == pytest.approx(2 / 2**5)
    assert compare.sign_flip(np.array([5.0, 4.0, 3.0])) == pytest.approx(0.25)
    assert compare.sign_flip(np.array([3.0, -3.0])) == 1.0


@pytest.mark.parametrize(("pairs", "error"), [(17, 1e-12), (20, 2e-3)])
def test_sign_flip_by_all_signs(pairs, error):
    x = np.random.default_rng(2).normal(0.4, 1, pairs)
    sums = np.zeros(1)
    for difference in x:
        sums = np.concatenate([sums + difference, sums - difference])
    exact = np.mean(abs(sums) > abs(x.sum()) - 1e-9)
    p = compare.sign_flip(x)
    assert p == pytest.approx(exact, abs=error) and p == compare.sign_flip(x)


def test_a_small_p_is_not_printed_as_zero():
    runs = Results(collect.read_results(ROOT / "benchmark/results/further"))
    row = report.difference_row(runs, "HalfCheetah-v4", "spo")  # below the clip in ten of ten
    assert row[-1] == "0.002"


def test_the_aggregate_weighs_tasks_alike_and_draws_within_them():
    units = [np.full(3, 2.0), np.full(4, 10.0)]
    one = compare.aggregate([np.full(3, 2.0), np.full(5, 30.0)], units)
    assert one == (2.0, 2.0, 2.0)  # what differs between tasks is no uncertainty
    rng = np.random.default_rng(0)
    x = [rng.normal(size=5) for _ in range(5)]
    x = [100 + y - y.mean() for y in x]
    error = np.sqrt(sum(y.var() / 5 for y in x)) / 5  # of the mean over tasks
    for units, share in (([np.full(5, 100.0)] * 5, 1), (x, np.sqrt(2))):  # the unit's error counts
        ours = compare.aggregate(x, units)
        assert ours.value == pytest.approx(1.0)
        width = 2 * 1.96 * share * error / 100
        assert ours.high - ours.low == pytest.approx(width, rel=0.1)


def test_bins():
    values = np.array([1, 3, np.nan, 5, np.nan, np.nan, 7])
    np.testing.assert_array_equal(collect.binned(values, 2), [2, 5, np.nan, 7])
    steps = range(2048, 2048 * 250 + 1, 2048)
    assert collect.bin_ends(steps)[:2] == [4096, 8192]
    assert len(collect.bin_ends(range(8, 8 * 491, 8))) == 123
    assert collect.bin_ends(range(8, 8 * 491, 8))[-1] == 8 * 490


def test_paper_table_agrees_with_its_curves():
    table = collect.read_csv(report.PAPER / "table.csv")
    points = collect.read_csv(report.PAPER / "curves.csv")
    for row in table:
        arm = "clip" if row["arm"] == "klip" else row["arm"]
        key = row["env_id"], arm
        end = [float(p["mean"]) for p in points
               if (p["env_id"], p["arm"]) == key and int(p["step"]) > 900_000]  # fmt: skip
        assert np.mean(end) == pytest.approx(float(row["mean"]), rel=0.03, abs=2)


def tuned(root, returns: dict) -> Results:
    """Tuning runs, from returns by task, arm and seed."""
    for (env_id, arm, seed), value in returns.items():
        write_run(root, arm, seed, env_id, episodic_return=float(value))
    return Results(collect.read_folders(root)[0])


def test_settings_are_compared_on_shared_seeds(tmp_path):
    runs = tuned(tmp_path, {("Ant-v4", "kl_fixed=3", 11): 50, ("Ant-v4", "kl_fixed=3", 12): 500,
                            ("Ant-v4", "kl_fixed=10", 11): 60})  # fmt: skip
    assert choose.best_setting(runs, ["Ant-v4"], "kl_fixed") == "kl_fixed=10"


def test_settings_are_compared_where_the_clip_returns_nothing(tmp_path):
    returns = {"clip": 0, "clip=0.1": -1, "kl_fixed": 5, "kl_fixed=3": 10}
    runs = tuned(tmp_path, {("Ant-v4", arm, 11): value for arm, value in returns.items()})
    assert choose.best_setting(runs, ["Ant-v4"], "kl_fixed") == "kl_fixed=3"
    assert choose.best_setting(runs, ["Ant-v4"], "clip") == "clip"


@pytest.mark.parametrize("sign", [1, -1])  # of the clip's return on Ant
def test_the_best_on_all_tasks_is_in_units_of_the_clip_and_has_run_on_all(tmp_path, sign):
    by_arm = {"clip": (sign * 10, 1000), "kl_fixed=3": (9, 100), "kl_fixed=10": (1, 500)}
    returns = {("Ant-v4", "kl_fixed=100", 11): 90, ("Hopper-v4", "clip", 11): 5}
    for arm, (ant, humanoid) in by_arm.items():
        returns |= {("Ant-v4", arm, 11): ant, ("Humanoid-v4", arm, 11): humanoid}
    choices = choose.choose_settings(tuned(tmp_path, returns))
    assert {c.env_id: (c.best, c.single) for c in choices if c.base == "kl_fixed"} == {
        "Ant-v4": ("kl_fixed=100", "kl_fixed=3"), "Humanoid-v4": ("kl_fixed=10", "kl_fixed=3")
    }  # fmt: skip


def test_kls_are_compared_by_factors_and_by_medians(tmp_path):
    runs = [collect.read_run(write_run(tmp_path, a)) for a in ("clip", "kl_fixed=3", "kl_fixed=10")]
    for run, kl in zip(runs, (0.01, 0.001, 0.03), strict=True):
        run.curve["kl"][:] = kl
        run.curve["kl"][-1] = 9
        assert run.median_kl == kl
    assert choose.matched(Results(runs), "Hopper-v4") == ["clip", "kl_fixed=10"]
    assert choose.typical([1e-4, 1e-2]) == pytest.approx(1e-3)


def test_forms_are_compared_at_one_epsilon(tmp_path):
    write_run(tmp_path, "clip=0.1")
    write_run(tmp_path, "phi", weights_sha256="f" * 64)
    assert "Are the three forms" not in markdown(tmp_path)


def test_a_failure_in_a_run_of_no_whole_number_of_rollouts_counts(tmp_path):
    write_run(tmp_path, "clip", 1, total_timesteps=41000)
    write_failure(tmp_path, "cispo", 1, total_timesteps=41000)
    runs, _ = collect.read_folders(tmp_path)
    kept, odd = collect.agree(collect.read_failures(tmp_path), collect.common_setup(runs))
    assert keys(kept) == [("Hopper-v4", "cispo", 1)] and odd == []


def test_most_runs_decide_the_setup_whichever_came_first(tmp_path):
    for seed, other in ((1, {"new_setting": 1}), (2, {"track": True}), (3, {})):
        write_run(tmp_path, "clip", seed, **other)
    runs, _ = collect.read_folders(tmp_path)
    kept, (line,) = collect.agree(runs, collect.common_setup(runs))
    assert [run.seed for run in kept] == [2, 3]
    assert "clip__1: new_setting 1 instead of absent" in line


def test_kill_and_pass(tmp_path):
    for seed, kill in ((1, 0.1), (2, 0.3)):
        folder = write_run(tmp_path, "clip", seed, kill_fraction=kill)
        scalars = made_up(seed, json.loads((folder / "result.json").read_text())["sps"])
        scalars["partition/kill"] = np.full(ITERATIONS, kill)
        scalars["partition/kill"][seed] = 0.5
        scalars["partition/pass"] = np.full(ITERATIONS, kill / 10)
        write_events(folder, scalars)
    text = markdown(tmp_path)
    assert "| 0.200 | 2598 ± 278 |" in text
    assert "| Hopper-v4 | 2 | 0.200 / 0.400 |" in text and "| 0.020 | 0.046" in text


def test_a_failure_on_a_tuning_seed_does_not_count_with_the_test_seeds(tmp_path):
    for arm in ("clip", "cispo"):
        write_run(tmp_path, arm)
    write_failure(tmp_path, "cispo", 11)
    runs, left_out = collect.read_folders(tmp_path)
    data = choose.sort_runs(runs, collect.read_failures(tmp_path))
    assert "| cispo | 100 |\n" in report.markdown(data, left_out)


def test_no_aggregate_in_units_of_a_negative_return(tmp_path):
    for env_id, clip in (("Ant-v4", -5.0), ("Humanoid-v4", 5.0)):
        for arm in ("clip", "kl_fixed"):
            write_run(tmp_path, arm, 1, env_id, episodic_return=clip)
    assert "the clip's mean return on each counted as 1" not in markdown(tmp_path)


@pytest.mark.filterwarnings("ignore:Precision loss")  # of the constant arm
def test_the_aggregate_is_the_same_each_time():
    x = np.random.default_rng(1).normal(10, 1, 9)
    assert compare.aggregate([x], [x]) == compare.aggregate([x], [x])
    assert compare.aggregate([np.array([0, 0, 0, 0, 10.0])], [np.ones(5)]).low >= 0  # percentile
    assert np.isfinite(compare.difference(np.ones(3), x).low)  # one arm may be constant


def test_an_arm_that_lacks_a_task_is_not_aggregated(tmp_path):
    for env_id in ("Ant-v4", "Humanoid-v4"):
        for arm in ("clip", "kl_fixed"):
            write_run(tmp_path, arm, 1, env_id)
    write_run(tmp_path, "kl_adaptive", 1, "Ant-v4")
    whole = markdown(tmp_path).split("on each counted as 1:")[1].split("!")[0]
    assert "fixed β" in whole and "adaptive β" not in whole


def test_settings_that_were_not_swept_are_shown_on_test_seeds(tmp_path):
    for arm in ("clip", "kl_fixed=3", "spo=0.3"):
        write_run(tmp_path, arm)
    shown = markdown(tmp_path).split("### On the test seeds")[1].split("\n## ")[0]
    assert "| fixed β = 3 | 100 |" in shown and "spo" not in shown


def test_results_keep_their_own_run_before_one_of_another_report(tmp_path):
    for name, value in (("own", 1.0), ("other", 2.0), ("at hand", None)):
        write_run(tmp_path / name, "klip" if value is None else "clip", episodic_return=value)
        report.main([str(tmp_path / name), str(tmp_path / f"{name} results")])
    own, other = tmp_path / "own results", tmp_path / "other results"
    report.main([str(tmp_path / "at hand"), str(own), "--with", str(other)])
    assert collect.read_results(own)[0].episodic_return == 1


def test_the_summary_says_whether_the_update_was_compiled(tmp_path):
    write_run(tmp_path, compile=True)
    assert "; cpu, compiled update." in markdown(tmp_path)


def test_the_ratios_are_medians(tmp_path):
    for arm in ("clip", "kl_fixed"):
        folder = write_run(tmp_path, arm)
        scalars = made_up(1, json.loads((folder / "result.json").read_text())["sps"])
        scalars["ratio/q99"] = np.array([3.0] * 19 + [99.0])
        write_events(folder, scalars)
    section = markdown(tmp_path).split("## Why")[1]
    assert [row.split(" | ")[8] for row in section.splitlines() if "Hopper" in row] == ["3", "3"]


def test_every_arm_has_the_epsilon_of_the_paper(tmp_path):
    write_run(tmp_path, "kl_fixed", clip_coef=0.1)
    assert "foreign run: clip_coef 0.1" in collect.read_folders(tmp_path)[1][0]
