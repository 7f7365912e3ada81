"""The persistent model without a layer (cuda_null.cu): what each persistent kernel in CUDA C++ does beside its own work."""

from __future__ import annotations

from rtaccel.kernels._gpu.cuda_nvrtc import PERSISTENT_FILES, CudaKernel

POLLERS = 4
"""Warps that look at the mailbox in turn, as streams and chains have them."""

PARAMETERS = (("request_ptr", "*i64"), ("reply_ptr", "*i64"), ("control_ptr", "*i64"), ("idle_looks", "i32"))


def shared_bytes(words: int) -> int:
    """Two messages, whether each ends the kernel, and four words of the polling warps."""
    return -(-4 * (2 * words + 6) // 16) * 16


def null_kernel(words: int = 1, pollers: int = POLLERS) -> CudaKernel:
    """words: of 32 bits of a message and of its answer."""
    return CudaKernel(
        "_persistent/cuda_null.cu", "rtaccel_null", PARAMETERS, num_warps=1 + pollers, name=f"null_{words}_polled_by_{pollers}",
        includes=PERSISTENT_FILES, shared_bytes=shared_bytes(words),
        definitions=(("RTA_WORDS", words), ("RTA_POLLERS", pollers), ("RTA_SPINS", 1024)),
    )  # fmt: skip
