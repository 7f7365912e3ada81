"""The stream of a batcher, compiled here: torch's tensors in and out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.nn.check import describe
from rtaccel.runtime.stream import StreamModel
from rtaccel.serve.stream_sides import not_a_stream


class CompiledSide:
    """A stream of `rt.stream`, as stream_sides.LoadedSide."""

    def __init__(self, live: Any) -> None:
        self.native = _plan_of(live)
        self.row, self._torch_dtype = _row_of(live)
        self.dtype = str(self._torch_dtype).removeprefix("torch.")
        self.streams = live.streams
        self.output = _output_of(live, self.native)

    def describe(self, x: Any) -> str:
        """dtype and shape."""
        return describe(x)

    def fitted(self, x: Any, shape: tuple[int, ...]) -> Tensor:
        """A copy that the native side takes, of something that is right but lies otherwise."""
        made = x
        if not isinstance(x, Tensor):
            try:
                made = torch.as_tensor(x)
            except (TypeError, ValueError, RuntimeError):
                made = None
            if made is not None and not hasattr(x, "dtype") and made.dim() == 0 and self._torch_dtype == torch.int64:
                made = made.to(self._torch_dtype)
        if (
            not isinstance(made, Tensor)
            or made.dtype != self._torch_dtype
            or tuple(made.shape) != shape
            or made.is_sparse
        ):
            got = describe(x) if isinstance(x, Tensor) else describe(made) if made is not None else type(x).__name__
            raise ShapeError("put", got, f"{self._torch_dtype}{list(shape)}, as the model takes it", "Convert it.")
        return made.detach().cpu().resolve_neg().contiguous().clone()

    def fitted_list(self, name: str, given: Any) -> Tensor:
        """int64 [n] of a list or a tensor. Raises ShapeError for anything else."""
        made = given if isinstance(given, Tensor) else torch.as_tensor(given) if len(given) else torch.empty(0).long()
        if made.dtype != torch.int64 or made.dim() != 1:
            raise ShapeError("put_many", f"{name} {describe(made)}", "int64 [n]", "Convert it.")
        return made.detach().cpu().contiguous()


def _plan_of(live: Any) -> Any:
    if not isinstance(live, StreamModel):
        raise not_a_stream(live)
    executor = live._executor
    if executor.direct is None or not executor.steps[0].native:
        raise UnsupportedProblem(
            "StreamBatcher",
            f"{live._options.title} on {live._options.device}",
            "one native plan on the CPU",
            "See explain().",
        )
    if not live.streams:
        raise UnsupportedProblem(
            "StreamBatcher", f"{live._options.title}, a model without a past", "recurrent layers or causal convolutions",
            "Its rows need no batcher: call it.",
        )  # fmt: skip
    return live._plan()


def _row_of(live: StreamModel) -> tuple[tuple[int, ...], torch.dtype]:
    """(shape, dtype) of what one stream takes."""
    argument = live._program.arguments[0]
    assert argument.dtype is not None
    return tuple(int(n) for n in argument.shape[1:] if n is not None), argument.dtype


def _output_of(live: StreamModel, plan: Any) -> tuple[str, list[int]]:
    """(dtype, shape) of one row of the result."""
    row, dtype = _row_of(live)
    past = plan.save_state()
    try:
        y = live(torch.zeros((live.streams, *row), dtype=dtype, device="cpu"))
    finally:
        plan.load_state(past)
    if not isinstance(y, Tensor):
        raise UnsupportedProblem("StreamBatcher", "a model of several outputs", "one tensor", "Give it one output.")
    return str(y.dtype).removeprefix("torch."), list(y.shape[1:])
