"""What README.md shows is so: what its commands print, and where its links lead.

A block of ```console is "$ command" with lines that it prints, in their order; "..." stands for the
rest of a line, or alone for lines left out. The block of ```bash after "<!-- quick -->" is run as it
is, and every weights_sha256 that it prints must be the same.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT, VARIANTS, script

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
SHOWN = [
    shown
    for kind, text in BLOCKS
    if kind == "console"
    for shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
]


def bash(command: str, folder: Path) -> str:
    """What a command prints, typed in a copy of the repository with this interpreter."""
    folder.mkdir()
    for file in ROOT.iterdir():
        if file.name not in ("runs", ".git"):
            (folder / file.name).symlink_to(file)
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env=os.environ
        | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def printed(expected: str, output: str) -> bool:
    """Whether all expected lines are printed, in their order."""
    lines = iter(output.splitlines())
    wanted = [re.escape(line).replace(re.escape("..."), ".*") for line in expected.splitlines()]
    return all(any(re.fullmatch(line, found) for found in lines) for line in wanted if line != ".*")


@pytest.mark.slow
@pytest.mark.parametrize("command, expected", SHOWN)
def test_a_command_prints_what_is_shown(command, expected, tmp_path):
    assert expected.strip()
    output = bash(command, tmp_path / "copy")
    assert printed(expected, output), output


def test_what_is_not_printed_is_seen():
    output = "a 1\nb abcdef\nc\n"
    assert printed("a 1\n...\nc\n", output) and printed("b abc...\n", output)
    for expected in ("a 2\n", "b abd...\n", "c\na 1\n", "a\n", "c\nc\n"):
        assert not printed(expected, output)


@pytest.mark.slow
def test_the_quick_commands_end_in_the_same_weights(tmp_path):
    (quick,) = re.findall(r"<!-- quick -->\n```bash\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    hashes = re.findall(r"^weights_sha256 (\w{64})$", bash(quick, tmp_path / "copy"), re.MULTILINE)
    assert len(hashes) == 3 and len(set(hashes)) == 1


def test_links_within_the_repository_lead_somewhere():
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", README))
    assert links
    for file, anchor in links:
        assert (ROOT / file).exists(), file
        assert file or anchor in anchors, anchor


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_script_by_itself_has_the_pins_of_the_requirements(variant):
    text = script(variant).read_text()
    (lines,) = re.findall(r"^# /// script\n(.*?)^# ///$", text, re.DOTALL | re.MULTILINE)
    inline = tomllib.loads(re.sub(r"^# ?", "", lines, flags=re.MULTILINE))
    needed = (ROOT / "requirements.txt").read_text().split("\n\n")[0].splitlines()[1:]
    assert inline["dependencies"] == needed
    assert all("==" in pin for pin in needed)
