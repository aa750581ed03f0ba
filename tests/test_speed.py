"""benchmark/speed.py measures what it says; nothing here depends on how fast the machine is."""

import sys

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
    label, whole, steady, *ratios, memory = [
        cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")
    ]
    assert label == "spo=0.3" and ratios == ["", ""]
    whole, steady, memory = (float(cell.replace(",", "")) for cell in (whole, steady, memory))
    assert 0 < whole < steady and memory > 100
    assert "8,192 steps" in done.stdout and "## InvertedPendulum-v4" in done.stdout


def test_ratios_are_taken_within_a_repeat():
    def made(whole, steady):
        return {"whole": whole, "steady": steady, "memory": 500}

    text = speed.table(
        {
            (speed.SB3, False): [made(1000, 1100), made(500, 500)],
            ("klip", True): [made(2000, 3300), made(2000, 2000)],
        }
    )
    ours = "2,000 (2,000..2,000) | 2,650 (2,000..3,300) | 3.00 (2.00..4.00) | 3.50 (3.00..4.00)"
    assert f"| klip, --compile | {ours} | 500 (500..500) |" in text
    assert f"| {speed.SB3} | 750 (500..1,000) |" in text


def test_memory_is_the_whole_trees(tmp_path):
    peaks = [
        speed.watch([sys.executable, "-c", HOG + more], str(tmp_path))[1]
        for more in ("time.sleep(1)", BESIDE)
    ]
    assert 80e6 < peaks[0] < 160e6 < peaks[1] < 250e6
    assert not psutil.Process().children()


def test_what_a_script_refuses_is_passed_on(tmp_path, capsys):
    code = "import sys; print('out'); print('x.py: error: y', file=sys.stderr); sys.exit(2)"
    with pytest.raises(SystemExit) as stopped:
        speed.watch([sys.executable, "-c", code], str(tmp_path))
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", "x.py: error: y\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"steps": 8191}, "--steps"),
        ({"repeats": 0}, "--repeats"),
        ({"arms": ("clip", "nope")}, "--arms"),
        ({"sb3": True}, "Stable-Baselines3"),
    ],
)
def test_bad_input_is_one_line(arguments, named, capsys, monkeypatch):
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        speed.main(speed.Args(**({"sb3": False} | arguments)))
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == ""
    assert err.count("\n") == 1 and named in err
