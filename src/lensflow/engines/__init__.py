"""Engines: two ways to run one checkpoint, behind one protocol.

`vllm.VllmEngine` is the fast one for generation, `transformers.TransformersEngine` the plain one (and, on a CPU, the
fast one for log-likelihoods). Both work on token ids, so that a prompt is tokenised once, by its owner, with its BOS.
"""

import ctypes
import os
import sys
import warnings
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from lensflow.config import Decoding
from lensflow.files import read_json
from lensflow.interventions import StateEdit

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # a second process starts slower, and aborts now and then at exit
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",  # checkpoints are folders
    "THP_MEM_ALLOC_ENABLE": "1",  # PyTorch: huge pages for large tensors
}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


class Engine(Protocol):
    """A causal language model that is ready to run."""

    def generate(self, prompts: list[list[int]], decoding: Decoding) -> list[str]:
        """Continue each prompt.

        Args:
            prompts: token ids, with BOS where the model wants one; none may be empty.
            decoding: how. An answer ends before the first stop string, and at the end-of-sequence token. Sampling with
                the same seed gives the same answers from one engine, not from both.

        Returns:
            The answers as text, without special tokens, in the order of `prompts`.
        """
        ...

    def loglikelihoods(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Score continuations.

        Args:
            requests: pairs (context, continuation) of token ids; neither may be empty.

        Returns:
            For each request the sum of log p(token | context and the tokens before it) over its continuation in
            nats, and whether every one of these tokens was the most probable (a tie counts).
        """
        ...

    def edited(self, edit: StateEdit | None) -> AbstractContextManager[None]:
        """Change the states after the final norm of all that runs in this context, and with them the logits.

        Args:
            edit: how; None runs the model as it is.
        """
        ...

    def close(self) -> None:
        """Free the model's memory; the engine cannot be used afterwards."""
        ...


def prepare_process() -> None:
    """Set what the engines want of the process; call it before torch or vllm are imported.

    A variable that is set already is left alone. Large tensors are kept by malloc instead of going back to the system
    after every operation: with a vocabulary of 262 k one step's logits are 67 MB, and taking and zeroing their pages
    anew took longer than computing with them.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"(torch|transformers|vllm)\b")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def eos_token_ids(checkpoint: Path) -> set[int]:
    """Ids of the end-of-sequence tokens of a checkpoint folder: of generation_config.json, else of config.json."""
    generation = checkpoint / "generation_config.json"
    ids = read_json(generation if generation.is_file() else checkpoint / "config.json").get("eos_token_id")
    return set(ids) if isinstance(ids, list) else set() if ids is None else {ids}


def end_token_ids(eos: Collection[int], vocabulary: Sequence[str], stop: Collection[str]) -> list[int]:
    """Ids (sorted) after which an answer has ended: end-of-sequence, and every token whose text holds a stop string.

    A stop string that is spread over several tokens is not among them: there the answer runs on and `finish` cuts it.
    """
    return sorted({*eos, *(i for i, piece in enumerate(vocabulary) if any(text in piece for text in stop))})


def finish(answer: str, stop: Collection[str]) -> str:
    """Cut an answer before the first stop string."""
    return answer[: min((answer.find(text) for text in stop if text in answer), default=len(answer))]


def last_line(error: BaseException) -> str:
    """Last non-empty line of an exception's message, or its type's name."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
