"""Settings of the process in which the engines run."""

import ctypes
import os
import sys
import warnings

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


def prepare_process() -> None:
    """Set the environment for the engines; call this before torch or vllm are imported.

    A variable that is already set does not change. malloc keeps large tensors instead of returning them to the system
    after every operation. With a vocabulary of 262 k, the logits of one step take 67 MB, and requesting and clearing
    their pages each time took longer than the computation.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"(torch|transformers|vllm)\b")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_LINK = "For further information visit"  # pydantic's last line


def last_line(error: BaseException) -> str:
    """Return an exception as one line: pydantic's own reason, or else the last line; without a message, the type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and _LINK not in line]
    reasons = [line.partition(" [type=")[0] for line in lines if line.startswith(("Value error, ", "Assertion failed"))]
    return " ".join(reasons) or (lines[-1] if lines else type(error).__name__)
