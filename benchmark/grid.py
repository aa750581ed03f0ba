"""The grid of benchmark.sh: which runs it has, and what must hold before they start.

    python benchmark/grid.py MODE OUT ENVS SEEDS ARMS STEPS [FLAGS ...]

MODE list prints a line for each run: the name of its folder, a blank, its command. run does so as
well, once every script has accepted its flags and every task could be made. report only looks for
the packages. prepare makes the folder OUT ready, with the file OUT/settings as file descriptor 8.

Bad input ends in one line and exit code 2, before anything is written.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it in silence, imports and all

import fcntl
import importlib.util
import io
import itertools
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import arms

PACKAGES = ("torch", "gymnasium", "mujoco", "tyro", "tensorboard", "tqdm")
SET_HERE = ("--env-id", "--seed", "--total-timesteps", "--exp-name", "--run-dir")
SET_BY_ARM = ("--clip-coef", "--kl-coef", "--kl-target")
SETTINGS = 8  # the file descriptor


@dataclass
class Run:
    """One run: its folder's name, what it trains and the flags it is started with."""

    name: str
    env_id: str
    seed: int
    arm: arms.Arm
    script: str  # path from the repository
    flags: list[str]

    def command(self) -> str:
        """The line for a shell."""
        python = os.environ.get("PYTHON", "python")
        return shlex.join([python, self.script, *self.flags])


def fail(message: str) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"benchmark.sh: error: {message}", file=sys.stderr)
    raise SystemExit(2)


# --- which runs


def items(option: str, text: str, pattern: str, meaning: str) -> list[str]:
    """The parts of a list with commas, each once; exits if one does not match the pattern."""
    parts = text.split(",")
    for part in parts:
        if not re.fullmatch(pattern, part):
            fail(f"{option} must be {meaning}, not {part!r}")
    return list(dict.fromkeys(parts))


def parse_arms(text: str) -> list[arms.Arm]:
    """The arms of a list with commas, each once however it is written."""
    found = {}
    for part in text.split(","):
        try:
            arm = arms.parse(part)
        except ValueError as error:
            fail(f"--arms: {error}")
        found[arm.name] = arm
    return list(found.values())


def refuse_flags(flags: list[str]) -> None:
    """Exit if one of the flags for all scripts is set by the grid."""
    for flag in flags:
        name = flag.partition("=")[0].replace("_", "-")
        if name in SET_HERE:
            fail(f"{flag} after -- is benchmark.sh's to set")
        if name in SET_BY_ARM:
            fail(f"{flag} after -- is set by the arm, as in --arms clip=0.1,kl_fixed=3")


def grid(out: str, envs: str, seeds: str, names: str, steps: str, flags: list[str]) -> list[Run]:
    """All runs, those of the first seed first."""
    whole = "[1-9][0-9]{0,9}"
    if not re.fullmatch(whole, steps):
        fail(f"--steps must be a positive whole number, not {steps}")
    env_ids = items("--envs", envs, "[A-Za-z0-9_][A-Za-z0-9_./:-]*", "Gymnasium ids")
    seed_list = items("--seeds", seeds, f"0|{whole}", "whole numbers")
    refuse_flags(flags)
    runs = []
    for seed, env_id, arm in itertools.product(seed_list, env_ids, parse_arms(names)):
        task = re.sub("[/:]", "_", env_id)
        name = f"{task}__{arm.name}__{seed}"
        script = f"{out}/{arm.script}" if arm.is_shape else arm.script
        own = ["--env-id", env_id, "--seed", seed, "--total-timesteps", steps]
        own += ["--exp-name", arm.name, "--run-dir", f"{out}/{name}", *arm.flags]
        runs.append(Run(name, env_id, int(seed), arm, script, own + flags))
    return runs


def of_this_task(runs: list[Run]) -> list[Run]:
    """All runs, or within a Slurm array the one of this task."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if task is None:
        return runs
    if int(task) >= len(runs):
        fail(f"--array must lie within 0-{len(runs) - 1}")
    return [runs[int(task)]]


# --- what must hold before they start


def find_packages() -> None:
    """Exit unless this interpreter has what the scripts import."""
    missing = [package for package in PACKAGES if not importlib.util.find_spec(package)]
    if missing:
        fail(
            f"{sys.executable} lacks {', '.join(missing)}: "
            "pip install -r requirements.txt, or set PYTHON"
        )


def load(arm: arms.Arm) -> ModuleType:
    """The script of an arm as a module."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, arm.script)
        file.write_text(arm.source(), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module  # where dataclasses and tyro look for it
        spec.loader.exec_module(module)
        return module


def reason(output: str) -> str:
    """Why a script refused its flags, in one line and with the names of benchmark.sh's options.

    A script prints one line. tyro prints a title, a rule, the reason, a rule and much help.
    """
    sections = re.split(r"\n *-{5,} *\n", output)
    lines = sections[1] if len(sections) > 1 else output
    text = " ".join(lines.split()).removeprefix("benchmark.sh: error: ")
    text = re.sub(r"--total-timesteps\b", "--steps", text)
    text = re.sub(r"--seed\b", "--seeds", text)
    text = re.sub(r"--env-id\b", "--envs", text)
    return text or "the flags after -- end a run before it starts"


def attempt(function: Callable, *args, **kwargs) -> Any:
    """What the function of a script returns; if it exits, we do so in one line."""
    output = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(output):
            return function(*args, **kwargs)
    except SystemExit:
        fail(reason(output.getvalue()))


def check(runs: list[Run]) -> None:
    """Exit if a script would refuse its flags or a task cannot be made."""
    import tyro

    sys.argv = ["benchmark.sh"]  # by which name the scripts complain
    by_seed = sorted(runs, key=lambda run: run.seed)
    of_arm = {run.arm.name: run for run in by_seed}  # with its largest seed
    modules = {}
    for run in of_arm.values():
        if run.script not in modules:
            modules[run.script] = load(run.arm)
        module = modules[run.script]
        without_folder = [*run.flags, "--run-dir", "None"]
        args = attempt(tyro.cli, module.Args, args=without_folder)
        attempt(module.check, args)
    for env_id in dict.fromkeys(run.env_id for run in runs):
        attempt(module.make_env, env_id).close()


# --- the folder of the runs


def claim(out: Path, settings: str) -> None:
    """See that a folder holds runs of one kind: make OUT/settings hold `settings`, or exit.

    Each copy of benchmark.sh, and each run, holds a shared lock on it for as long as it lives. The
    first one, or one that is alone and finds no finished run, may write.
    """
    file = out / "settings"
    try:
        fcntl.flock(SETTINGS, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unused = not file.read_text() or not any(out.glob("*/result.json"))
        if unused:
            os.ftruncate(SETTINGS, 0)
            os.write(SETTINGS, f"{settings}\n".encode())
    except BlockingIOError:
        pass  # others are at work
    fcntl.flock(SETTINGS, fcntl.LOCK_SH)
    held = file.read_text().strip()
    if held != settings:
        fail(f"--out {out} holds runs with {held}, not {settings}: name another folder")


def write_shapes(out: Path, runs: list[Run]) -> None:
    """Compose the scripts of the shapes, each in one piece; exit if runs of another one are here."""
    shapes = {run.script: run.arm for run in runs if run.arm.is_shape}
    for script, arm in shapes.items():
        source = arm.source()
        file = Path(script)
        changed = file.exists() and file.read_text(encoding="utf-8") != source
        folders = [*out.glob(f"*__{arm.base}__*"), *out.glob(f"*__{arm.base}=*")]
        if changed and any((folder / "result.json").exists() for folder in folders):
            fail(
                f"--out {out} holds runs of {script}, which has changed since: name another folder"
            )
        draft = out / f"{arm.base}.{os.uname().nodename}.{os.getpid()}"
        draft.write_text(source, encoding="utf-8")
        draft.rename(script)


def main(mode: str, out: str, envs: str, seeds: str, names: str, steps: str, *flags: str) -> None:
    """See the module."""
    if "\n" in "".join(sys.argv):
        fail("an argument holds a line break")
    runs = grid(out, envs, seeds, names, steps, list(flags))
    if mode == "prepare":
        try:
            claim(Path(out), " ".join(["--total-timesteps", steps, *flags]))
            write_shapes(Path(out), runs)
        except OSError as error:
            fail(f"--out {out} cannot be written: {error.strerror}")
        return
    if mode != "list":
        find_packages()
    if mode == "run":
        runs = of_this_task(runs)
        check(runs)
    for run in runs:
        print(run.name, run.command())


if __name__ == "__main__":
    main(*sys.argv[1:])
