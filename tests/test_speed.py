"""benchmark/speed.py measures what it says; nothing here depends on how fast the machine is."""

import sys

import pandas as pd
import psutil
import pytest
import speed
from conftest import ROOT, start

HOG = "import subprocess, sys, time; x = b'x' * 80_000_000; "
BESIDE = (
    "subprocess.run([sys.executable, '-c', 'import time; y = b\"y\" * 80_000_000; time.sleep(1)'])"
)


@pytest.mark.slow
def test_a_small_measurement(tmp_path):
    flags = ["--envs", "InvertedPendulum-v4", "--arms", "spo=0.30", "--steps", "8200"]
    flags += ["--repeats", "1", "--no-sb3", "--no-compile"]
    done = start([ROOT / "benchmark/speed.py", *flags], tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    task, label, whole, steady, *ratios, memory = [
        cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")
    ]
    assert (task, label, ratios) == ("InvertedPendulum-v4", "spo=0.3", ["–", "–"])
    assert 0 < int(whole) < int(steady) and int(memory) > 100
    assert "8,192 steps" in done.stdout


def test_ratios_are_taken_within_a_repeat():
    numbers = {
        (speed.SB3, 0): (1000, 1100),
        ("klip", 0): (2000, 3300),
        (speed.SB3, 1): (500, 500),
        ("klip", 1): (2000, 2000),
    }
    runs = pd.DataFrame(
        {"task": "Ant-v4", "row": row, "repeat": repeat, "whole": a, "steady": b, "memory": 500}
        for (row, repeat), (a, b) in numbers.items()
    )
    text = speed.table(runs)
    assert "| Ant-v4 | klip | 2000 | 2650 | 3.00 | 3.50 | 500 |" in text
    assert f"| Ant-v4 | {speed.SB3} | 750 | 800 | 1.00 | 1.00 | 500 |" in text


def test_memory_is_the_whole_trees(tmp_path):
    peaks = [
        speed.watch([sys.executable, "-c", HOG + more], str(tmp_path))[1]
        for more in ("time.sleep(1)", BESIDE)
    ]
    assert 80e6 < peaks[0] < 160e6 < peaks[1] < 250e6
    assert not psutil.Process().children()


def test_what_a_script_refuses_is_passed_on(tmp_path):
    code = "import sys; print('out'); print('x.py: error: y', file=sys.stderr); sys.exit(2)"
    with pytest.raises(ValueError, match="^x.py: error: y$"):
        speed.watch([sys.executable, "-c", code], str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"steps": 8191}, "--steps"),
        ({"repeats": 0}, "--repeats"),
        ({"arms": ("nope",)}, "nope is no arm"),
        ({"sb3": True}, "Stable-Baselines3"),
    ],
)
def test_bad_arguments_are_refused(arguments, named, monkeypatch):
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=named):
        speed.main(speed.Args(**({"sb3": False} | arguments)))
