"""What the tests share: the scripts as modules, changed copies of them, and runs as subprocesses."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
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


MODULES = {variant: load(variant) for variant in VARIANTS}


def minibatch(module, n: int, dtype=torch.float32, seed: int = 0, act_dim: int = 3, change=0.05):
    """An agent, and n samples an older one collected: in, kill and pass samples of both signs."""
    torch.manual_seed(seed)
    old = module.Agent(5, act_dim).to(dtype)
    torch.nn.init.normal_(old.actor_mean[-1].weight, std=0.1)
    torch.nn.init.normal_(old.actor_logstd, std=0.3)
    agent = copy.deepcopy(old)
    with torch.no_grad():
        for weights in agent.parameters():
            weights += change * torch.randn_like(weights)
        obs = torch.randn(n, 5, dtype=dtype)
        mean = old.actor_mean(obs)
        logstd = old.actor_logstd.repeat(n, 1)
        actions = mean + logstd.exp() * torch.randn(n, act_dim, dtype=dtype)
        old_logprob = old.logprob(mean, actions)
        value = old.get_value(obs)
        ratio = (agent.logprob(agent.actor_mean(obs), actions) - old_logprob).exp()
    advantages, returns = torch.randn(2, n, dtype=dtype)
    for sign in (-1, 1):
        for part in (ratio < 0.8, ratio > 1.2, (0.8 < ratio) & (ratio < 1.2)):
            assert (part & (advantages * sign > 0)).any(), "the minibatch lacks a kind of sample"
    batch = module.Batch(obs, actions, old_logprob, mean, logstd, value, advantages, returns)
    return agent, batch


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


def result(run_dir: Path) -> dict:
    """result.json of a finished run."""
    return json.loads((run_dir / "result.json").read_text())


def scalars(run_dir: Path) -> dict[str, list[float]]:
    """The logged values of a run by name, in the order of the iterations."""
    events = EventAccumulator(str(run_dir)).Reload()
    return {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def pytest_collection_modifyitems(items: list) -> None:
    """Under --dist loadscope a file is one piece of work: those that take longest come first."""
    longest = ("test_platforms", "test_training")
    items.sort(key=lambda item: item.path.stem not in longest)
