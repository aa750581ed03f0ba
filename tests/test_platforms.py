"""One hash on every x86-64 processor with AVX2: runs emulated on two of them, and on this one."""

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT

CHOICES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_CBWR")  # of kernels, by the environment
# importing PyTorch takes much of an emulated process, so one process runs both ways
PROGRAM = """
import sys
import ppo_klip_continuous as klip

for name, compile in (("eager", False), ("compiled", True))[: int(sys.argv[1])]:
    args = klip.Args("Hopper-v4", num_steps=128, num_minibatches=4, total_timesteps=256)
    args.update_epochs, args.compile, args.run_dir = 4, compile, name
    print("found", klip.train(args)["weights_sha256"])
"""
WAYS = 2 if shutil.which(os.environ.get("CXX", "g++")) else 1  # eager, and compiled


def hashes(folder, ways: int = WAYS, emulator: str = "", **choices: str) -> list[str]:
    """The weights of short runs of klip, in a process that chooses the kernels."""
    folder.mkdir()
    command = [*emulator.split(), os.path.realpath(sys.executable), "-c", PROGRAM, str(ways)]
    environment = {k: v for k, v in os.environ.items() if k not in CHOICES} | choices
    environment["PYTHONPATH"] = f"{sysconfig.get_path('purelib')}{os.pathsep}{ROOT}"
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "cache")
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if line.startswith("found")]


@pytest.mark.slow
@pytest.mark.skipif(sysconfig.get_platform() != "linux-x86_64", reason="for x86-64 Linux")
@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="needs qemu-x86_64 (qemu-user)")
def test_foreign_processors_give_the_same_hashes(tmp_path):
    """One also compiles, which takes its time. The control leaves the kernels to the libraries."""
    with ThreadPoolExecutor(2) as pool:
        amd = pool.submit(hashes, tmp_path / "amd", WAYS, "qemu-x86_64 -cpu EPYC-Rome")
        intel = pool.submit(hashes, tmp_path / "intel", 1, "qemu-x86_64 -cpu Haswell")
        here = hashes(tmp_path / "here")
    assert amd.result() == here and intel.result() == here[:1]
    assert here[:1] != hashes(tmp_path / "free", 1, MKL_CBWR="AUTO", OPENBLAS_CORETYPE="")
