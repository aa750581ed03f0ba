"""What README.md shows is so: what its commands print, and where its links lead."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT, script

README = (ROOT / "README.md").read_text()
(QUICK,) = re.findall(r"<!-- quick -->\n```bash\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
SHOWN = re.findall(r"^```console\n\$ ([^\n]*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def bash(command: str, folder: Path) -> str:
    """What a command prints, typed in a copy of the repository with this interpreter."""
    folder.mkdir()
    for file in ROOT.iterdir():
        if file.name not in ("runs", ".git"):
            (folder / file.name).symlink_to(file)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("command, expected", SHOWN)
def test_a_command_prints_what_is_shown(command, expected, tmp_path):
    assert bash(command, tmp_path / "copy") == expected


@pytest.mark.slow
def test_the_quick_commands_end_in_the_weights_promised(tmp_path):
    """The hash is that of x86-64 Linux; elsewhere it is another, but still one."""
    numbers = r"^(kill_fraction|weights_sha256) ([\w.]+)"
    promised = re.findall(numbers, README, re.MULTILINE)
    found = re.findall(numbers, bash(QUICK, tmp_path / "copy"), re.MULTILINE)
    assert len(promised) == 2
    assert found == 3 * (found[:2] if sysconfig.get_platform() != "linux-x86_64" else promised)


def test_links_within_the_repository_lead_somewhere():
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", README))
    assert links
    for file, anchor in links:
        assert (ROOT / file).exists(), file
        assert file or anchor in anchors, anchor


def test_a_script_by_itself_has_what_it_imports():
    """One script stands for all, since this part is shared (test_siblings.py)."""
    text = script("klip").read_text()
    (lines,) = re.findall(r"^# /// script\n(.*?)^# ///$", text, re.DOTALL | re.MULTILINE)
    inline = tomllib.loads(re.sub(r"^# ?", "", lines, flags=re.MULTILINE))
    needed = (ROOT / "requirements.txt").read_text().split("\n\n")[0].splitlines()[1:]
    assert inline["dependencies"] == needed
    assert all("==" in pin for pin in needed)
    imported = {*re.findall(r"^ *(?:import|from) (\w+)", text, re.MULTILINE)}
    packages = {"torch", "gymnasium", "mujoco", "numpy", "tyro", "wandb"}
    assert imported - sys.stdlib_module_names == packages
