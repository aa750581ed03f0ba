"""What the tests share: the scripts as modules, changed copies of them, and runs as subprocesses."""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored after "pytest ... &" in a script
torch.set_num_threads(1)  # as the scripts; with more, tensors this small wait for each other

ROOT = Path(__file__).resolve().parent.parent
FORMS = ("clip", "phi", "klip")  # one gradient
VARIANTS = (*FORMS, "kl_scalar")
# changes that a script does not survive unnoticed
NO_CLIPPING = (
    "torch.min(ratio * adv_over_n, clipped_ratio * adv_over_n)",
    "ratio * adv_over_n",
)
NO_STOP_GRADIENT = ("-ratio * adv_over_n, 0.0).detach()", "-ratio * adv_over_n, 0.0)")
MEAN = (  # as usual, but exact for powers of two only
    ("(batch.advantages / len(batch.advantages)).double()", "batch.advantages.double()"),
    ("policy_loss = -objective.sum()", "policy_loss = -objective.mean()"),
)
needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="--compile needs a C++ compiler"
)


def script(variant: str) -> Path:
    """Path of a variant's script."""
    return ROOT / f"ppo_{variant}_continuous.py"


def changed(variant: str, *replacements: tuple[str, str]) -> str:
    """Source of a script with each text replaced by its partner; each must occur exactly once."""
    source = script(variant).read_text()
    for old, new in replacements:
        assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {variant}"
        source = source.replace(old, new)
    return source


def load(variant: str, *replacements: tuple[str, str]) -> ModuleType:
    """A script as a module of its own, with `replacements` a changed copy of it (see `changed`)."""
    module = ModuleType(f"ppo_{variant}" + "_changed" * bool(replacements))
    module.__file__ = str(script(variant))
    code = compile(changed(variant, *replacements), module.__file__, "exec")
    exec(code, vars(module))  # noqa: S102 (our own scripts)
    return module


def start(command: list, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run `python command...` in the folder cwd, one thread, and return its output as text."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def start_all(commands: list[list], cwd: Path, **environment: str) -> list:
    """`start` every command, two at a time, and return what each returned in the same order."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda command: start(command, cwd, **environment), commands))


def result(run_dir: Path) -> dict:
    """result.json of a finished run."""
    return json.loads((run_dir / "result.json").read_text())


def scalars(run_dir: Path) -> dict[str, list[float]]:
    """The logged values of a run by name, in the order of the iterations."""
    events = EventAccumulator(str(run_dir)).Reload()
    return {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
