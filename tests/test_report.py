"""The two tables hold what the runs hold, the report what the tables hold; its statistics."""

import json
import shutil

import arms
import figures
import numpy as np
import pandas as pd
import pytest
import report
import runs
import stats
from conftest import ROOT, script, start
from scipy.stats import t
from torch.utils.tensorboard import SummaryWriter

ITERATIONS = 20


@pytest.fixture(autouse=True)
def no_figures(request, monkeypatch):
    """Figures take a second; only the test that looks at them has them drawn."""
    if request.node.name != "test_figures_are_drawn":
        for name in ("draw", "draw_rules"):
            monkeypatch.setattr(figures, name, lambda *arguments: None)


@pytest.fixture
def folder(tmp_path):
    """A folder of benchmark.sh with the scripts, and no run."""
    root = tmp_path / "runs"
    root.mkdir()
    (root / "settings").write_text("--total-timesteps 40960 --compile\n")
    for arm in ("clip", "phi", "klip", "kl_fixed", "spo"):
        (root / arms.parse(arm).script).write_text(arms.parse(arm).source())
    return root


def write_run(root, arm="clip", seed=1, env_id="Hopper-v4", **other):
    """A made-up run that has finished; returns its folder."""
    name = f"{env_id}__{arm}__{seed}"
    folder = root / name
    folder.mkdir()
    (root / f"{name}.log").write_text("40960/40960 steps\n")
    writer = SummaryWriter(folder)
    for i in range(ITERATIONS):
        for k, tag in enumerate(runs.SCALARS.values()):
            if i % 3 or k > 1:  # no episode ended in every third iteration
                writer.add_scalar(tag, 0.01 * (k + 1) + 0.001 * i + 0.0001 * seed, 2048 * (i + 1))
    writer.close()
    result = arms.parse(arm).settings | {
        "env_id": env_id,
        "exp_name": arm,
        "seed": seed,
        "total_timesteps": 40960,
        "versions": dict.fromkeys(runs.VERSIONS, "1.0"),
        "global_step": 2048 * ITERATIONS,
        "episodic_return": 100.0 * seed,
        "kill_fraction": 0.1,
        "sps": 2000.0,
        "wall_time_s": 20.0,
        "weights_sha256": f"{seed:064}",
    }
    (folder / "result.json").write_text(json.dumps(result | other))
    del result["episodic_return"], result["global_step"]  # not known when it starts
    (folder / "config.json").write_text(json.dumps(result))
    return folder


def write_failure(root, arm, seed, last="ppo_x.py: error: the weights are NaN"):
    """A made-up run whose log ends with this line."""
    folder = write_run(root, arm, seed)
    (folder / "result.json").unlink()
    folder.with_name(f"{folder.name}.log").write_text(f"begun\n{last}\n")


def table(folder, name="runs"):
    return pd.read_csv(folder / f"{name}.csv", keep_default_na=False, dtype=str)


# --- the tables


def test_a_row_and_a_curve_are_those_of_the_run(folder, tmp_path):
    write_run(folder, "kl_fixed=3", 7, episodic_return=123.456789)
    runs.main(folder, tmp_path)
    (row,) = table(tmp_path).to_dict("records")
    expected = {"env_id": "Hopper-v4", "arm": "kl_fixed=3", "seed": "7", "steps": "40960"}
    expected |= {"episodic_return": "123.46", "weights_sha256": f"{7:064}", "torch": "1.0"}
    expected |= {"code": arms.code_hash(script("kl_scalar").read_text()), "failed": ""}
    expected |= {"flags": "--compile"}
    assert {name: row[name] for name in expected} == expected
    curve = table(tmp_path, "curves")
    assert list(curve.step) == [str(2048 * (i + 1)) for i in range(ITERATIONS)]
    assert curve["return"][3] == "" and curve["return"][4] == "0.0147"
    assert curve.kl[3] == "0.0437" and curve.kl_coef[3] == "0.0837"


def test_a_long_curve_is_means_of_iterations(folder, monkeypatch):
    monkeypatch.setattr(runs, "POINTS", 5)
    curve = runs.read_curve(write_run(folder), 2048 * ITERATIONS)
    assert list(curve.step) == [8192, 16384, 24576, 32768, 40960]
    assert curve.kl[0] == pytest.approx(0.04 + 0.0015 + 0.0001)
    assert curve["return"][0] == pytest.approx(0.01 + 0.0015 + 0.0001)  # of iterations 1 and 2


def test_tables_are_added_to_and_stay_sorted(folder, tmp_path, capsys):
    write_run(folder, "klip", 1)
    write_run(folder, "clip", 10)
    write_run(folder, "clip", 2)
    runs.main(folder, tmp_path)
    before = [(tmp_path / f"{name}.csv").read_bytes() for name in ("runs", "curves")]
    runs.main(folder, tmp_path)
    assert [(tmp_path / f"{name}.csv").read_bytes() for name in ("runs", "curves")] == before

    for file in [*folder.glob("*__*")]:
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    write_run(folder, "clip", 2, episodic_return=7.0)
    write_run(folder, "clip", 3)
    (write_run(folder, "clip", 4) / "result.json").unlink()  # under way
    runs.main(folder, tmp_path)
    found = table(tmp_path)
    assert list(found.seed) == ["2", "3", "10", "1"]
    assert list(found.episodic_return) == ["7", "300", "1000", "100"]
    curves = table(tmp_path, "curves")
    assert list(dict.fromkeys(curves.seed)) == ["2", "3", "10", "1"] and len(curves) == 80
    assert set(before[1].decode().splitlines()) <= set(curves.to_csv(index=False).splitlines())


def test_a_run_that_broke_has_a_row_and_no_return(folder, tmp_path):
    write_run(folder, "spo", 1)
    write_failure(folder, "spo", 2)
    write_failure(folder, "spo", 3, last="4096/20480 steps, 2000 steps/s")  # killed
    runs.main(folder, tmp_path)
    found = table(tmp_path)
    assert list(found.failed) == ["", "the weights are NaN"]
    assert list(found.episodic_return) == ["100", ""]
    assert set(table(tmp_path, "curves").seed) == {"1"}
    report.main(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "* Hopper-v4, spo, seed 2 broke: the weights are NaN" in text


def test_runs_of_other_code_or_settings_are_refused(folder, tmp_path):
    run = write_run(folder, "clip", 1, clip_coef=0.3)
    with pytest.raises(ValueError, match="clip_coef is 0.3"):
        runs.main(folder, tmp_path)
    shutil.rmtree(run)
    write_run(folder, "clip", 1)
    copy = folder / "ppo_clip_continuous.py"
    copy.write_text("# words\n" + copy.read_text())
    runs.main(folder, tmp_path)
    copy.write_text(copy.read_text() + "x = 1\n")
    before = table(tmp_path)
    with pytest.raises(ValueError, match="ppo_clip_continuous.py has changed since this run"):
        runs.main(folder, tmp_path)
    assert table(tmp_path).equals(before)


# --- the statistics


def test_differences_are_welchs():
    x, y = np.array([1.0, 2.0, 4.0, 9.0]), np.array([3.0, 3.5, 5.0])
    a, b = x.var(ddof=1) / 4, y.var(ddof=1) / 3
    half = t.ppf(0.975, (a + b) ** 2 / (a**2 / 3 + b**2 / 2)) * np.sqrt(a + b)
    center = 4.0 - 11.5 / 3
    np.testing.assert_allclose(stats.difference(x, y), (center, center - half, center + half))
    assert np.isnan(stats.difference(x[:2], y)).tolist() == [False, True, True]


def test_the_permutation_test_is_exact():
    x, y = np.array([1.0, 5.0, 2.0]), np.array([4.0, 9.0, 7.0, 3.0])
    # of 35 ways to draw three, 123, 124, 125 and 134 have a sum that is as small; two-sided
    assert stats.permutation_p(x, y) == pytest.approx(8 / 35)


def test_holm_corrects_as_in_a_table():
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.9])
    np.testing.assert_allclose(stats.holm(p), [0.04, 0.09, 0.09, 0.025, 0.9])


# --- the report


def made_up(tmp_path, returns: dict, curves: dict | None = None, steps="1000000"):
    """The report on made-up tables: by task and arm a list of returns, seed 1 first, or by seed."""
    rows, points = [], []
    for (task, arm), values in returns.items():
        by_seed = values if isinstance(values, dict) else dict(enumerate(values, 1))
        for seed, value in by_seed.items():
            row = dict.fromkeys(runs.COLUMNS, "")
            row |= {"env_id": task, "arm": arm, "seed": seed, "episodic_return": value}
            row |= {"weights_sha256": f"{seed:064}", "steps": steps, "flags": "--compile"}
            rows.append(row)
            entropy = (curves or {}).get(arm, [11.0] * 10)
            for i, e in enumerate(entropy):
                point = dict.fromkeys(runs.SCALARS, 0.02) | {"entropy": e, "q99": 1.5 + 0.2 * i}
                point["kl"] = 0.07 if i == 9 else 0.02
                point["kl_coef"] = np.nan if arm == "clip" else 2.0
                points.append(
                    {"env_id": task, "arm": arm, "seed": seed, "step": 100_000 * (i + 1)} | point
                )
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    pd.DataFrame(points).to_csv(tmp_path / "curves.csv", index=False)
    report.main(tmp_path)
    return (tmp_path / "report.md").read_text()


def test_the_primary_comparisons(tmp_path):
    clip, other = [100.0 + i for i in range(10)], [10.0 * i for i in range(10)]
    returns = {("Ant-v4", "clip"): clip, ("Ant-v4", "kl_fixed"): other}
    returns |= {("Hopper-v4", "clip"): clip[:4], ("Hopper-v4", "kl_adaptive"): clip[:3]}
    returns |= {("Ant-v4", "phi"): clip[:2], ("Ant-v4", "klip"): clip[:2]}
    text = made_up(tmp_path, returns)
    assert "1 of 10 are complete" in " ".join(text.split())
    p = 2 / 184756  # of all ways to label them, this one and its reverse are as far apart
    row = f"| Ant-v4 | fixed β = 1 | 10, 10 | 45 ± 30 | 104 ± 3 | −60 (−81 to −38) | {p:.2g} | {2 * p:.2g} |"
    assert row in text
    assert "| Hopper-v4 | adaptive β | 3, 4 | 101 ± 1 | 102 ± 1 |" in text
    assert "| main | 27 of 150 |" in text
    assert "| identity | 4 of 20 |" in text
    assert "Identical in 2 of 2 cells" in text
    assert "| Ant-v4 | PPO-Clip | 100, 101, " in text and "| 2193 ± 361 | 0.02 | – |" in text
    assert "| Ant-v4 | fixed β = 1 | 0, 10, " in text and "| 16 ± 16 | 0.02 | 2 |" in text
    assert "(n − 1)" in text and "## Would" not in text


def test_figures_are_drawn(tmp_path):
    returns = {("Ant-v4", arm): [1.0, 2.0] for arm in ("clip", "spo")}
    returns |= {("Ant-v4", arm): {11: 1.0, 12: 2.0} for arm in ("clip=0.1", "kl_fixed=3")}
    text = made_up(tmp_path, returns)
    drawn = {file.stem for file in tmp_path.glob("*.png")}
    assert drawn == {"learning_curves", "kl", "partition", "rules"}
    assert all(f"({name}.png)" in text for name in drawn)


def test_other_weights_are_called_different(tmp_path):
    made_up(tmp_path, {("Ant-v4", arm): [1.0] for arm in ("clip", "phi", "klip")})
    found = pd.read_csv(tmp_path / "runs.csv", dtype=str, keep_default_na=False)
    found.loc[1, "weights_sha256"] = "f" * 64
    found.to_csv(tmp_path / "runs.csv", index=False)
    report.main(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Identical in 0 of 1 cells" in text and "| DIFFERENT |" in text


def test_halfcheetah_has_two_modes(tmp_path):
    text = made_up(tmp_path, {("HalfCheetah-v4", "clip"): [1500.0, 4000.0, 1700.0]})
    assert "| PPO-Clip | 1 of 3: 4000 | 2 of 3: 1600 ± 141 |" in text


def test_tuning_seeds_choose_and_do_not_judge(tmp_path):
    returns = {("Ant-v4", arm): {11: 1.0, 12: 1.0} for arm in report.SWEEP}
    returns["Ant-v4", "kl_fixed=3"] = {11: 50.0, 12: 70.0, 1: 5.0, 2: 6.0, 3: 10.0}
    returns["Ant-v4", "clip=0.3"] = {11: 950.0, 12: 951.0}  # shown, but the clip is not tuned
    returns["Ant-v4", "clip"] = {11: 900.0, 12: 901.0, 1: 100.0, 2: 101.0, 3: 102.0}
    returns["Ant-v4", "kl_adaptive"] = {11: 8.0, 12: 9.0}
    returns["Ant-v4", "kl_fixed=0.3"] = {11: 999.0}  # incomplete: nothing is chosen from it
    text = made_up(tmp_path, returns)
    assert "| Ant-v4 | fixed β = 3 | 50, 70 | 60 | 0.02 | 7 ± 3 | −94 (" in text
    assert "| tuned | 0 of 0 |" in text
    returns["Ant-v4", "kl_fixed=0.3"] = {11: 2.0, 12: 2.0}
    text = made_up(tmp_path, returns)
    assert "| Ant-v4 | fixed β = 3 | 50, 70 | 60 ◀ |" in text and text.count("◀ |") == 2
    assert "| tuned | 3 of 10 |" in text


def test_when_noise_has_shrunk(tmp_path):
    curves = {"clip": [11, 9, 8, 7, 6, 7, 5, 5, 5, 5], "kl_mean=3": [11.0] * 10}
    returns = {("Ant-v4", "clip"): [2000.0, 2100.0], ("Ant-v4", "kl_mean=3"): [1.0, 3.0]}
    returns |= {("Ant-v4", "clip_quiet"): [50.0], ("Ant-v4", "kl_quiet=3"): [20.0]}
    text = made_up(tmp_path, returns, curves)
    assert "| `clip` | 2 | 2050 ± 71 | – | 2000 to 2100 | 500 | 1.8 | 2.8 | 0.02 | 0 |" in text
    assert "| `kl_mean=3` | 2 | 2 ± 1 | −2048 | 1 to 3 | never | 2.4 | – |" in text
    assert "| `kl_quiet=3` | 1 | 20 | −30 |" in text  # less the clip of the same start


def test_rules_stand_beside_the_clip(tmp_path):
    returns = {("Ant-v4", "clip"): [10.0, 11.0, 12.0], ("Ant-v4", "spo"): [5.0, 6.0, 7.0]}
    text = made_up(tmp_path, returns | {("Hopper-v4", "clip"): [1.0]}, steps="20480")
    assert "| PPO-Clip | 11 ± 1; KL 0.02, at most 0.07 |" in text
    assert "| spo | 5, 6, 7; −5 (−7 to −3); KL 0.02, at most 0.07 |" in text
    assert "runs that have finished" not in text  # these are not the protocol's


@pytest.mark.parametrize(
    "program, arguments", [("runs", ["a"]), ("runs", ["a", "b"]), ("report", ["a"])]
)
def test_bad_input_is_one_line(program, arguments, tmp_path):
    done = start([ROOT / f"benchmark/{program}.py", *arguments], tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"{program}.py: error: ")
