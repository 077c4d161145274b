"""Snakemake at the pace of a test on a cluster whose controller is this machine alone.

The SLURM plugin waits five seconds before it submits a job, and ten seconds longer after every check that finds no job
ended. On a shared controller that is right; here it is most of the time that a run takes.
"""

import asyncio
import time
from types import SimpleNamespace

import snakemake_executor_plugin_slurm as plugin
from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def between_checks(executor: RemoteExecutor) -> None:
    await asyncio.sleep(1)


plugin.time = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
RemoteExecutor.sleep = between_checks
main()
