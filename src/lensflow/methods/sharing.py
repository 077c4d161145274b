"""One training in several processes, one per GPU, that share every batch. transformers' Trainer and accelerate combine
the gradients.

The update equals the one that a single process computes from the whole batch. The loss is the mean over all counted
tokens of the batch, in all processes.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

import torch
from accelerate.state import AcceleratorState
from torch import Tensor, distributed
from transformers import Trainer

T = TypeVar("T")
LOG = logging.getLogger(__name__)
PATIENCE = 30.0  # seconds in which a process can still end with its own message, after another one failed
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def together(count: int, work: Callable[..., T], *args: Any) -> T:
    """Run a function in several processes, this one included; return the result of this process.

    Args:
        count: number of processes.
        work: a module-level function, called with the arguments in each process.
        args: arguments that can be pickled.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("spawn")
    others = [context.Process(target=_as, args=(n, count, port, work, *args), daemon=True) for n in range(1, count)]
    for process in others:
        process.start()
    ended = threading.Event()
    threading.Thread(target=_end_with, args=(others, ended), daemon=True).start()
    try:
        result = _as(0, count, port, work, *args)
        for process in others:
            process.join()
    finally:
        ended.set()
        for process in others:
            process.terminate()
    return result


def _end_with(others: Sequence[BaseProcess], ended: threading.Event) -> None:
    """End this process if another one fails, because a call that waits for it may not end.

    Args:
        others: the other processes.
        ended: set when this process needs them no more.
    """
    running = {process.sentinel: process for process in others}
    while running:
        for process in [running.pop(sentinel) for sentinel in cast("list[int]", wait(list(running)))]:
            process.join()
            if process.exitcode and not ended.wait(PATIENCE):
                LOG.error("one of the training's processes ended with code %d; see above", process.exitcode)
                os._exit(2)


def _as(rank: int, count: int, port: int, work: Callable[..., T], *args: Any) -> T:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if rank and sys.platform == "linux":  # a job that is killed leaves no process behind on a GPU
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    os.environ.update({name: str(value) for name, value in names.items()})
    try:
        result = work(*args)
        distributed.destroy_process_group()
        return result
    finally:
        for name in names:
            del os.environ[name]
        AcceleratorState._reset_state(reset_partial_state=True)


def place() -> tuple[int, int]:
    """Return the number of this process and how many there are."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def mean(total: Tensor, counted: int) -> Tensor:
    """Return a batch's mean loss, from the sum over this process's share and the number of counted tokens in the batch.

    The gradient covers only this process's share. It is multiplied by the number of processes, because
    DistributedDataParallel takes the mean over processes.
    """
    sums = torch.stack([total.detach(), total.new_tensor(counted)])
    distributed.all_reduce(sums)
    mine = total * place()[1] / sums[1]
    return mine + (sums[0] / sums[1] - mine).detach()


class SharingTrainer(Trainer):  # type: ignore[misc]
    """A Trainer in which all processes read the same batches. Each process takes its share when it collates a batch.

    Dev losses are means over batches. If examples are padded, an incomplete last batch weighs slightly more.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator. It keeps all losses of a batch, because no example occurs twice in a batch."""
        super().create_accelerator_and_postprocess()
        self.gather_function = self.accelerator.gather_for_metrics = self.accelerator.gather

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        loader = super()._get_dataloader(*args, **kwargs)
        if place()[1] > 1:  # accelerate gives each process other batches, and fills the last one up
            loader.batch_sampler.num_processes, loader.batch_sampler.process_index = 1, 0
            loader.batch_sampler.even_batches = False
        return loader
