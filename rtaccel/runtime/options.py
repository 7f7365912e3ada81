"""How a model was compiled: what is needed to plan it again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtaccel.core.batch import ANY_BATCH, BatchRange
from rtaccel.core.errors import ShapeError, UnsupportedProblem

if TYPE_CHECKING:
    from rtaccel.kernels._core.cpu import States


@dataclass(frozen=True)
class Options:
    """batch_size: the batch that kernels are chosen for. backend: forced, or None. max_batch: largest batch of a call, 0 for any;
    batch: that, and what the model itself is right for.
    threads: how many a native plan may use, the calling one included. states: of a stream. title: of the model, for reports.
    mode: on a GPU "graph" or "eager"; None elsewhere. scheme: as it was asked for, for reports and files.
    index: which of several GPUs, -1 on a CPU.
    kept: of a model with state of its own, what its plan keeps; each of its calls is one of all samples."""

    batch_size: int
    device: str = "cpu"
    backend: str | None = None
    max_batch: int = 0
    title: str = ""
    threads: int = 1
    states: States | None = None
    mode: str | None = None
    batch: BatchRange = ANY_BATCH
    scheme: str = "float32"
    kept: States | None = None
    index: int = -1

    @property
    def place(self) -> str:
        """Where tensors lie, as torch names it."""
        return self.device if self.index < 0 else f"{self.device}:{self.index}"

    @property
    def plan_states(self) -> States | None:
        """What a plan keeps from call to call, of a stream or of any other model."""
        return self.states or self.kept

    def check_batch(self, op: str, size: int) -> None:
        """Raises ShapeError for a batch that a call may not have. size: of the first dimension."""
        rows = size
        if self.max_batch and size > self.max_batch:
            limit = f"at most max_batch={self.max_batch}"
            raise ShapeError(op, f"a batch of {size}", limit, "Split the batch, or compile for more.")
        if self.states is None and size not in self.batch:
            because = f" ({'; '.join(self.batch.why)})" if self.batch.why else ""
            raise ShapeError(
                op, f"a batch of {size}", f"one that the model was compiled for: {self.batch}{because}",
                "Call it with such a batch, or compile it for this one.",
            )  # fmt: skip
        if self.states is not None and rows != self.states.samples:
            raise ShapeError(
                op, f"{rows} streams", f"{self.states.samples}, those of the example",
                "Give every stream its time step, or make a stream for another number of them.",
            )  # fmt: skip


def check_threads(threads: int, device: str, backend: str | None) -> None:
    """Raises UnsupportedProblem where a native plan cannot run on so many threads at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= min(cores, 32):
        raise UnsupportedProblem(
            "compile",
            f"threads={threads!r}",
            f"1 to {min(cores, 32)}: this thread may run on {cores} cores",
            "Pass fewer threads, or widen the affinity mask.",
        )
    if threads > 1 and (device != "cpu" or backend not in (None, "cpu")):
        raise UnsupportedProblem(
            "compile",
            f"threads={threads} with device={device!r}, backend={backend!r}",
            "threads=1, or the native backend on the CPU",
            "Only native plans have threads of their own.",
        )
