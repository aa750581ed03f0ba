"""benchmark.sh as a Slurm array job, on a cluster of this one machine that the test brings up.

Skipped where Slurm is missing or the user is not root: apt-get install slurm-wlm munge
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

TOOLS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "sinfo")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def free_ports() -> list[int]:
    """Two TCP ports nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture
def slurm(tmp_path):
    """Environment in which sbatch reaches a cluster of one node, this machine."""
    if os.geteuid() != 0 or not all(map(shutil.which, TOOLS)):
        pytest.skip("needs root and slurm-wlm, munge")
    folder, host = tmp_path / "cluster", socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    conf = CONF.format(folder=folder, host=host, ports=free_ports(), cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(conf)
    env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHON": sys.executable}
    munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge.sock"]
    munged += [f"--key-file={folder}/key", f"--pid-file={folder}/munged.pid"]
    munged += [f"--log-file={folder}/munged.log", f"--seed-file={folder}/seed"]
    subprocess.run(["mungekey", "--create", f"--keyfile={folder}/key"], check=True)
    daemons = []
    try:
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with open(folder / "output", "a") as output:
                daemons.append(subprocess.Popen(command, env=env, stdout=output, stderr=output))
            time.sleep(1)
        for _ in range(60):
            nodes = subprocess.run(
                ["sinfo", "-h", "-o", "%T"], env=env, capture_output=True, text=True, check=False
            )
            if nodes.stdout.strip() == "idle":
                break
            time.sleep(1)
        else:
            pytest.fail("no idle node: " + (folder / "output").read_text())
        yield env
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(timeout=60)


def test_array_job_runs_one_cell_per_task_and_a_report_gathers(tmp_path, slurm):
    out = tmp_path / "out"
    grid = ["--out", str(out), "--envs", "Hopper-v4", "--seeds", "1", "--arms", "clip=0.1,spo"]
    tiny = ["--", "--num-steps", "256", "--num-minibatches", "4", "--update-epochs", "1"]
    submit = ["sbatch", "--wait", "--array=0-1", f"--output={tmp_path}/%a.out"]
    job = subprocess.run(
        [*submit, "benchmark.sh", *grid, "--steps", "512", *tiny],
        cwd=ROOT,
        env=slurm,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    outputs = [Path(f"{tmp_path}/{task}.out").read_text() for task in range(2)]
    assert job.returncode == 0, (job.stderr, outputs)
    for task, arm in enumerate(("clip=0.1", "spo")):  # the order of --list
        assert f"Hopper-v4__{arm}__1 finished: 1/1" in outputs[task]
        result = json.loads((out / f"Hopper-v4__{arm}__1/result.json").read_text())
        assert result["global_step"] == 512
    assert not (out / "results").exists()

    report = ["./benchmark.sh", *grid, "--report"]
    subprocess.run(report, cwd=ROOT, env=slurm, check=True, timeout=200)
    assert "2 runs of 512 steps" in (out / "results/report.md").read_text()
