"""A SLURM cluster of one node, this machine, with two GPUs that are none."""

import getpass
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
PACED = Path(__file__).with_name("paced_snakemake.py")
# Nothing that needs cgroups, a database or another user than this one; ended jobs are shown for a day, not 5 minutes.
# A job starts as soon as it is submitted, and one that ignores its cancellation is killed after 2 seconds, not 30.
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
MinJobAge=86400
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=64000 Gres=gpu:2
PartitionName=other Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=gpus Nodes=ALL MaxTime=INFINITE State=UP
"""
GRES_CONF = "Name=gpu File=/dev/zero\nName=gpu File=/dev/null\n"


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in NEEDED if shutil.which(name) is None]


class Cluster:
    """What a test needs to know of the running cluster.

    Attributes:
        environment: variables with which SLURM's commands find it.
    """

    def __init__(self, folder: Path) -> None:
        programs = folder / "bin"
        programs.mkdir()
        # A job's own `srun` is called without SLURM_CONF.
        wrapper = programs / "srun"
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        wrapper.chmod(0o755)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}

    def run(self, *command: str) -> str:
        """Run one of SLURM's commands; return what it prints."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    def jobs(self) -> list[dict[str, Any]]:
        """Return all jobs so far as SLURM describes them, in the order of their submission."""
        return sorted(json.loads(self.run("squeue", "--states=all", "--json"))["jobs"], key=lambda job: job["job_id"])


@contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """Run the cluster.

    Args:
        folder: an empty one whose path is short, because it holds a socket.
    """
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    ports = {"controller_port": _free_port(), "node_port": _free_port()}
    (folder / "slurm.conf").write_text(SLURM_CONF.format(host=host, user=user, folder=folder, **ports))
    (folder / "gres.conf").write_text(GRES_CONF)
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    cluster = Cluster(folder)
    munge = [f"--{name}-file={folder}/munge/{name}" for name in ("key", "pid", "log", "seed")]
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", host],
    )
    with ExitStack() as stack:
        for command in commands:
            stack.enter_context(_running(command, cluster, folder))
            time.sleep(0.5)
        for _ in range(100):
            if "idle" in cluster.run("sinfo", "--noheader", "--format=%t"):
                break
            time.sleep(0.2)
        else:
            raise RuntimeError((folder / "slurmctld.log").read_text() + (folder / "slurmd.log").read_text())
        yield cluster
        cluster.run("scancel", f"--user={user}")


@contextmanager
def _running(command: list[str], cluster: Cluster, folder: Path) -> Iterator[None]:
    log = (folder / f"{command[0]}.out").open("wb")
    process = subprocess.Popen(command, env=os.environ | cluster.environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def snakemake(arguments: list[str]) -> list[str]:
    """Return a command that runs the workflow on the cluster by the committed profile, at the pace of a test."""
    waiting = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10"]
    return [sys.executable, str(PACED), "--workflow-profile", "slurm", "--cores", "2", *waiting, *arguments]
