"""What README.md says is so: its quotations, its commands, its numbers about floats.

Its conventions: a block of ```python begins with "# file", the rest stands in that file; a block
of ```console is "$ command" and all it prints; every line of ```bash is a command to type, and the
blocks after "<!-- quick -->" run here as they are.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from conftest import FORMS, ROOT, load, result, script, start_all

sys.path.insert(0, str(ROOT / "benchmark"))
import identity_figure

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
QUICK = re.findall(r"<!-- quick -->\n```bash\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
POLICY_LOSS = re.compile(r"(--- policy loss ---\n)(.*?)( *# --- end of policy loss)", re.DOTALL)
ARGUMENTS = re.search(r"### Arguments that matter\n(.*?)\n### ", README, re.DOTALL)[1]


def blocks(kind: str) -> list[str]:
    """The text of all fenced blocks of a kind; the README has at least one."""
    found = [text for k, text in BLOCKS if k == kind]
    assert found
    return found


def policy_loss(form: str) -> str:
    """What stands between the markers of a form's script."""
    return POLICY_LOSS.search(script(form).read_text())[2]


def bash(command: str, cwd: Path) -> str:
    """What a command of the README prints, typed in cwd with this interpreter as `python`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode <= (1 if command.startswith("diff ") else 0), done.stdout
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the scripts in it, and nothing of theirs in the repository."""
    for variant in (*FORMS, "kl_scalar"):
        shutil.copy(script(variant), tmp_path)
    return tmp_path


def test_quoted_code_stands_in_its_file():
    for text in blocks("python"):
        name, code = re.fullmatch(r"# (\S+)\n(.*)", text, re.DOTALL).groups()
        assert f"\n{code}" in (ROOT / name).read_text(), name


def test_all_three_blocks_are_quoted_whole():
    for form in FORMS:
        assert f"```python\n# {script(form).name}\n{policy_loss(form)}```" in README


def test_quoted_output_is_what_the_command_prints():
    for text in blocks("console"):
        command, output = re.fullmatch(r"\$ (.*?)\n(.*)", text, re.DOTALL).groups()
        assert bash(command, ROOT) == output


def test_programs_and_files_exist():
    named = set(re.findall(r"[\w/.${}]+\.(?:py|sh|png|svg)\b", README)) | {".ci/run"}
    named = {name.replace("${form}", "phi") for name in named if not name.startswith("runs/")}
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_argument_is_in_the_help_of_its_program():
    given = defaultdict(set)
    for line in COMMANDS:
        line = re.sub(r"runs/e\$i|ppo_\$\{form\}_continuous", "ppo_klip_continuous", line)
        for part in re.split(r"&&|;|#", line):
            if program := re.search(r"(?:python |\./|sbatch .*?)([\w/]+\.(?:py|sh))(.*)", part):
                given[program[1]] |= set(re.findall(r" (--[\w-]+)", program[2])) - {"--help"}
    given["ppo_kl_scalar_continuous.py"] |= set(re.findall(r"`(--[\w-]+)`", ARGUMENTS)) - {"--help"}
    assert sum(map(len, given.values())) > 20
    for name, flags in given.items():
        if flags:
            help = bash(f"{'bash' if name.endswith('.sh') else 'python'} {name} --help", ROOT)
            assert flags <= set(re.findall(r"--[\w-]+", help)), name


def test_defaults_in_the_table_are_the_scripts():
    module = load("kl_scalar")
    defaults = vars(module.Run()) | vars(module.Args())
    words = {"on": True, "off": False, "none": None}
    checked = 0
    for flags, values in re.findall(r"^\| (`--.*?`) \| (.*?) \|", ARGUMENTS, re.MULTILINE):
        for flag, value in zip(re.findall(r"--([\w-]+)", flags), values.split(", ")):
            default = defaults[flag.replace("-", "_")]
            if flag != "run-dir":
                assert default == (words[value] if value in words else type(default)(value)), flag
                checked += 1
    assert checked > 12


def test_ci_runs_the_readmes_test_command():
    (install,) = [line for line in COMMANDS if line.endswith("-m pytest tests")]
    assert install.split(" && ")[-1] in (ROOT / ".ci/run").read_text().splitlines()


def test_quick_commands_run_and_end_in_the_same_weights(folder: Path):
    assert QUICK
    for text in QUICK:
        bash(f"set -e\n{text}", folder)
    runs = [result(folder / f"runs/same_{form}") for form in FORMS]
    assert len({run["weights_sha256"] for run in runs}) == 1
    assert all(run["kill_fraction"] > 0.01 for run in runs)


def test_exercises_change_only_the_block_and_each_trains_to_other_weights(folder: Path):
    (text,) = [text for text in blocks("bash") if "sed " in text]
    bash(f"set -e\n{text}", folder)
    names = [shlex.split(line)[-1] for line in text.splitlines() if line.startswith(("cp", "sed"))]
    assert len(names) == 7
    for name in names[1:]:
        before, after = script("klip").read_text(), (folder / name).read_text()
        assert POLICY_LOSS.search(before)[2] != POLICY_LOSS.search(after)[2], name
        assert POLICY_LOSS.sub("", before) == POLICY_LOSS.sub("", after), name
    small = [
        "--env-id=Hopper-v4",
        "--num-steps=256",
        "--num-minibatches=16",
        "--learning-rate=0.001",
        "--total-timesteps=512",
    ]
    start_all([[name, *small, "--run-dir", name[:-3]] for name in names], folder)
    runs = [result(folder / name[:-3]) for name in names]
    assert runs[0]["kill_fraction"] > 0.01
    assert len({run["weights_sha256"] for run in runs}) == 7


def coefficients(form: str, ratio: torch.Tensor, advantages: torch.Tensor, mean_of: int | None):
    """What the form's block puts before grad log pi, summed or as a mean of so many; and kill."""
    w, logprob = ratio.clone().requires_grad_(), ratio.log().requires_grad_()
    clipped = w.clamp(1 - 0.2, 1 + 0.2)
    kill = (w - clipped).detach() * advantages > 0
    names = {"torch": torch, "ratio": w, "clipped": clipped, "advantages": advantages}
    names |= {"kill": kill, "logprob": logprob}
    exec(dedent(policy_loss(form)), names)  # noqa: S102 (our own scripts)
    objective = names["objective"]
    (objective if mean_of is None else objective.reshape(-1, mean_of).mean(1)).sum().backward()
    return w.grad * ratio + (0 if logprob.grad is None else logprob.grad), kill


def test_ties_in_the_min_are_as_frequent_as_said():
    advantages = torch.randn(10**6, generator=torch.Generator().manual_seed(0))
    said = [float(x) for x in re.findall(r"([\d.]+) % (?:of samples )?at the float", README)]
    assert len(said) == 2
    for edge, away, percent in ((1.2, 9.0, said[0]), (0.8, -9.0, said[1])):
        w = torch.tensor(away).clamp(1 - 0.2, 1 + 0.2)
        for floats_away in range(4):
            for dtype in (torch.float32, torch.float64):
                a = advantages.to(dtype)
                c, kill = coefficients("clip", w.expand(len(a)), a, None)
                wrong = (c != torch.where(kill, 0, advantages * w)).double().mean() * 100
                tie = dtype == torch.float32 and floats_away == 1
                assert wrong == (pytest.approx(percent, abs=0.1) if tie else 0), edge
            w = torch.nextafter(w, torch.tensor(away))


def test_averaging_leaves_what_is_said():
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(960_000, generator=generator)
    ratio = (torch.randn(960_000, generator=generator) / 2).exp()
    percent, most = re.search(
        r"(\d+) % of\s+the killed ones kept .*? up to (\S+);", README
    ).groups()
    for n, share in ((60, float(percent)), (64, 0.0)):
        averaged, kill = coefficients("klip", ratio, advantages.double(), n)
        assert (averaged[kill] != 0).double().mean() * 100 == pytest.approx(share, abs=0.5)
        assert averaged[kill].abs().max() <= (float(most) * 1.05 if share else 0)
        summed, _ = coefficients("klip", ratio, (advantages / n).double(), None)
        assert not summed[kill].any()


def test_the_figure_shows_the_identity():
    ratios = np.linspace(0.05, 2.5, 60)
    for advantage in (1.0, -1.0):
        kill = ratios > 1.2 if advantage > 0 else ratios < 0.8
        modules = identity_figure.clip, identity_figure.phi, identity_figure.klip
        curves = [identity_figure.curve(m, advantage, ratios) for m in modules]
        for _, c in curves:
            np.testing.assert_array_equal(c, curves[0][1])
            np.testing.assert_allclose(c, np.where(kill, 0, advantage * ratios), atol=1e-5)
        values = [v for v, _ in curves]
        np.testing.assert_allclose(values[0], values[1], atol=1e-6)
        assert (np.abs(values[2] - values[0]) > 1e-3)[kill].all()
        _, scalar = identity_figure.curve(identity_figure.kl_scalar, advantage, ratios, 1.0)
        assert (np.abs(scalar - curves[0][1]) > 1e-3)[kill].any()
