"""What README.md says is so: its quotations, its commands, its numbers about floats.

Its conventions: in a block of ```python a line "# file" begins what stands in that file; a block of
```console is "$ command" and all it prints; every line of ```bash is a command to type, and the block
after "<!-- quick -->" runs here as it is.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from conftest import FORMS, ROOT, VARIANTS, load, result, script

sys.path[:0] = [str(ROOT / "benchmark"), str(ROOT / "shapes")]
import identity_figure
import insert
from markers import policy_loss

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
(QUICK,) = re.findall(r"<!-- quick -->\n```bash\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
EXERCISES = re.search(r"^for name in (.*?); do$", README, re.MULTILINE)[1].split()
ARGUMENTS = re.search(r"### Arguments that matter\n(.*?)\n### ", README, re.DOTALL)[1]


def block(form: str) -> str:
    """The policy loss of a form's script."""
    return policy_loss(script(form).read_text())


def rows(heading: str) -> dict[str, str]:
    """A table of the README, the row by its first cell, from the words in its head."""
    table = README.split(heading)[1].split("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*)$", table, re.MULTILINE))


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
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_quoted_code_stands_in_its_file():
    (quotation,) = [text for kind, text in BLOCKS if kind == "python"]
    quoted = re.findall(r"^# (\S+)\n(.*?)(?=\n# |\Z)", quotation, re.DOTALL | re.MULTILINE)
    assert [name for name, _ in quoted] == [script(form).name for form in FORMS]
    for form, (_, code) in zip(FORMS, quoted, strict=True):
        assert code.strip("\n") == block(form).strip("\n"), form


def test_quoted_output_is_what_the_command_prints():
    (text,) = [text for kind, text in BLOCKS if kind == "console"]
    command, output = re.fullmatch(r"\$ (.*?)\n(.*)", text, re.DOTALL).groups()
    assert bash(command, ROOT) == output


def test_programs_and_files_exist():
    text = re.sub(r"https?://\S+", "", README)
    named = set(re.findall(r"[\w/.{}$]+\.(?:py|sh|txt|png|svg|md|html)\b", text))
    named |= set(re.findall(r"`(shapes/\w+)`", text))
    named = {name for name in named if not name.startswith("runs/")} | {".ci/run"}
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_links_within_lead_to_headings():
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#(.*?)\)", README))
    assert links
    assert links <= anchors


def test_mathematics_survives_markdown():
    # GitHub's Markdown takes the backslash from \, \; \{ and the like before it looks for $
    formulas = re.findall(r"\$[^$\n`]+\$", README)
    assert len(formulas) > 50
    for formula in formulas:
        assert not re.search(r"\\[^\w\s]", formula), formula


def flags_of(program: str) -> set[str]:
    """The options that a program of the repository knows."""
    if form := re.fullmatch(r"ppo_(\w+)_continuous.py", program):
        return {f"--{name.replace('_', '-')}" for name in vars(load(form[1]).Args())}
    shell = "bash" if program.endswith(".sh") else "python"
    return set(re.findall(r"--[\w-]+", bash(f"{shell} {program} --help", ROOT)))


def test_every_argument_is_known_to_its_program():
    given = defaultdict(set)
    program = re.compile(r"(?:python |uv run |\./|sbatch .*?)([\w/]+\.(?:py|sh))(.*)")
    for line in COMMANDS + re.findall(r"`([^`\n]+)`", README):
        line = line.replace("runs/ppo_${name}_continuous", "ppo_klip_continuous")
        for part in re.split(r"&&|;|#", line):
            if found := program.search(part):
                given[found[1]] |= set(re.findall(r" (--[\w-]+)", found[2])) - {"--help"}
    given["ppo_kl_scalar_continuous.py"] |= set(re.findall(r"`(--[\w-]+)`", ARGUMENTS)) - {"--help"}
    assert sum(map(len, given.values())) > 20
    for name, flags in given.items():
        assert not flags or flags <= flags_of(name), name


def test_defaults_in_the_table_are_the_scripts():
    defaults = vars(load("kl_scalar").Args())
    words = {"on": True, "off": False, "none": None}
    checked = 0
    for flags, values in re.findall(r"^\| (`--.*?`) \| (.*?) \|", ARGUMENTS, re.MULTILINE):
        flags = re.findall(r"--([\w-]+)", flags)
        if flags == ["run-dir"]:
            continue
        for flag, value in zip(flags, values.split(", "), strict=True):
            default = defaults[flag.replace("-", "_")]
            assert default == (words[value] if value in words else type(default)(value)), flag
            checked += 1
    assert checked > 12


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_script_by_itself_has_the_pins_of_the_requirements(variant: str):
    text = script(variant).read_text()
    (lines,) = re.findall(r"^# /// script\n(.*?)^# ///$", text, re.DOTALL | re.MULTILINE)
    inline = tomllib.loads(re.sub(r"^# ?", "", lines, flags=re.MULTILINE))
    needed = (ROOT / "requirements.txt").read_text().split("\n\n")[0].splitlines()[1:]
    assert inline["dependencies"] == needed
    assert all("==" in pin for pin in needed)
    oldest, newest = re.search(r"Python (3\.\d+) to 3\.(\d+)", README).groups()
    assert inline["requires-python"] == f">={oldest},<3.{int(newest) + 1}"


def test_ci_runs_the_readmes_test_command():
    (test,) = [line for line in COMMANDS if "-m pytest tests" in line and "#" in line]
    assert test.split("#")[0].strip() in (ROOT / ".ci/run").read_text().splitlines()


def test_quick_commands_run_and_end_in_the_same_weights(tmp_path: Path):
    for form in FORMS:
        shutil.copy(script(form), tmp_path)
    output = bash(f"set -e\n{QUICK}", tmp_path)
    hashes = re.findall(r"^weights_sha256 (\w{64})$", output, re.MULTILINE)
    assert len(hashes) == 3
    assert len(set(hashes)) == 1
    for run in (tmp_path / "runs").iterdir():
        assert result(run)["kill_fraction"] > 0.01


def test_exercises_are_those_of_the_table():
    assert EXERCISES == list(rows("| block |"))
    assert set(EXERCISES) >= set(insert.exercises())
    assert set(EXERCISES) <= set(insert.exercises() + insert.names())


def test_rules_are_those_of_the_table():
    table = rows("| rule |")
    assert list(table) == insert.names()
    for name, row in table.items():
        assert set(re.findall(r"abs/([\d.]+)", row)) <= set(
            re.findall(r"[\d.]+", insert.block(name))
        )


def test_scalars_are_those_of_the_glossary():
    glossary = README.split("### The logged scalars")[1].split("###")[0]
    said = set(re.findall(r"`(\w+/\w+)`", glossary))
    source = script("kl_scalar").read_text()
    logged = set(re.findall(r'"((?:charts|losses|partition)/\w+)"', source))
    assert said == logged | {f"ratio/q{percent}" for percent in ("01", "10", "50", "90", "99")}


def coefficients(form: str, ratio: torch.Tensor, advantages: torch.Tensor, mean_of: int | None):
    """What the form's block puts before grad log pi, summed or as a mean of so many; and kill."""
    w, logprob = ratio.clone().requires_grad_(), ratio.log().requires_grad_()
    clipped = w.clamp(1 - 0.2, 1 + 0.2)
    kill = (w - clipped).detach() * advantages > 0
    names = {"torch": torch, "ratio": w, "clipped_ratio": clipped, "advantages": advantages}
    names |= {"kill_set": kill, "logprob": logprob}
    exec(dedent(block(form)), names)  # noqa: S102 (our own scripts)
    objective = names["objective"]
    (objective if mean_of is None else objective.reshape(-1, mean_of).mean(1)).sum().backward()
    return w.grad * ratio + (0 if logprob.grad is None else logprob.grad), kill


def test_ties_in_the_min_are_as_frequent_as_said():
    advantages = torch.randn(10**6, generator=torch.Generator().manual_seed(0))
    said = [float(x) for x in re.findall(r"([\d.]+) % (?:of samples )?at the\s+float", README)]
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
        r"(\d+) % of the killed ones kept [^.;]* up to (\S+);", " ".join(README.split())
    ).groups()
    for n, share in ((60, float(percent)), (64, 0.0)):
        averaged, kill = coefficients("klip", ratio, advantages, n)
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
