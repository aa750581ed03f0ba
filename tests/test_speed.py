"""benchmark/speed.py measures what it says; nothing here depends on how fast the machine is."""

import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmark"))
import speed

HOG = "import subprocess, sys, time; x = b'x' * 80_000_000; "
BESIDE = (
    "subprocess.run([sys.executable, '-c', 'import time; y = b\"y\" * 80_000_000; time.sleep(2)'])"
)


def run(*arguments: str) -> subprocess.CompletedProcess:
    """speed.py with these arguments."""
    command = [sys.executable, ROOT / "benchmark/speed.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def number(cell: str) -> float:
    """A cell's median."""
    return float(cell.split(" ")[0].replace(",", ""))


def test_a_small_measurement():
    task = ("--env-id", "InvertedPendulum-v4", "--num-envs", "2", "--steps", "8192")
    done = run(*task, "--repeats", "1", "--no-sb3", "--no-compile")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    speeds, times = cells[:4], cells[4:]
    assert {len(row) for row in speeds} == {8} and {len(row) for row in times} == {10}
    assert [row[0] for row in speeds[2:]] == ["this script", "physics alone"]
    assert [row[0] for row in times[2:]] == ["this script"]
    _, envs, whole, steady, *_, share, peak = speeds[2]
    assert envs == "2" and 0 < number(whole) < number(steady) and number(peak) > 100
    act, env, evaluate, advantages, update, log, total, mj_step = map(number, times[2][2:])
    assert total == pytest.approx(act + env + evaluate + advantages + update + log, abs=1)
    assert 0 < mj_step < env and number(share) == pytest.approx(100 * mj_step / total, abs=1)
    for stated in ("--steps 8192", "cores", "torch ", "mujoco ", "InvertedPendulum-v4"):
        assert stated in done.stdout


def test_ratios_and_units():
    def made(whole, steady, share):
        spent = dict.fromkeys((*speed.COLUMNS, "total", "mj_step", "timers"), 1e-6)
        return {"whole": whole, "steady": steady, "share": share, "peak": 5e2, "phases": spent}

    runs = {
        ("sb3", 1): [made(1e-3, 9e-4, 0.1), made(2e-3, 2e-3, 0.1)],
        ("eager", 1): [made(5e-4, 3e-4, 0.3), made(5e-4, 5e-4, 0.25)],
        ("physics", 1): [{"steady": 1e-4}, {"steady": 2e-4}],
    }
    text = speed.report(runs, "Walker2d-v4", cuda=False)
    ours = "2,000 (2,000..2,000) | 2,667 (2,000..3,333) | 3.00 (2.00..4.00) | 3.50 (3.00..4.00)"
    assert f"| this script | 1 | {ours} | 28 (25..30) | 500 (500..500) |" in text
    assert f"| this script | 1 | {' | '.join(['1.0 (1.0..1.0)'] * 8)} |" in text
    assert "| physics alone | 1 |  | 7,500 (5,000..10,000) |" in text and "LeanRL" not in text
    assert "1,774" in speed.report(runs, "Walker2d-v4", cuda=True)


def test_the_script_marks_each_phase_once():
    source = speed.instrumented((ROOT / "ppo_clip_continuous.py").read_text())
    assert [source.count(f"mark('{phase}')") for phase in speed.PHASES] == [1] * 5


@pytest.mark.parametrize("text", ["        # act\n", "        # log\n        # act\n" * 3])
def test_other_marks_are_refused(text):
    with pytest.raises(ValueError, match="phases marked"):
        speed.instrumented(text)


def test_memory_is_the_whole_trees():
    # from a small process: the kernel starts a child's peak at the size of its parent
    measure = f"import speed, sys; print(speed.launch([sys.executable, '-c', {HOG!r} + {{!r}}])[1])"
    small = [sys.executable, "-c"]
    alone, both = (
        float(subprocess.check_output([*small, measure.format(more)], cwd=ROOT / "benchmark"))
        for more in ("time.sleep(1)", BESIDE)
    )
    assert 80 < alone < 160 < both < 250


def test_median_and_spread():
    assert speed.cell([3.0, 1000.0, 1.0]) == "3 (1..1,000)"
    assert speed.cell([2.04], 1) == "2.0"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--steps", "8191"], "--steps"),
        (["--num-envs", "1", "3"], "--num-envs"),
        (["--repeats", "0"], "--repeats"),
        (["--env-id", "Pendulum-v1"], "--env-id"),
    ],
)
def test_bad_input_is_one_line(arguments, named):
    done = run(*arguments)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and named in done.stderr
