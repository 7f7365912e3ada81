"""A front before a stream: what has no past, in the same plan, on time steps as they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.exported.example import check_example
from rtaccel.convert.frontend.torchscript import in_python
from rtaccel.convert.joined import joined, one_group
from rtaccel.convert.passes.program import Program
from rtaccel.convert.quantization.calibrate import as_args, batches_of
from rtaccel.convert.streaming.window import LAYOUTS
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.core.scheme import SchemeLike
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.compiler import compile
from rtaccel.runtime.streaming.program import StreamedModel, stream_program

LAYOUT = ("batch", "time", "features")
"""Of windows as they come, before the front; a time step may have several dimensions there."""


@dataclass(frozen=True)
class Front:
    """module: gives features, [n, ...], for time steps [n, ...]. program: of it. example: its features for the example."""

    module: nn.Module
    program: Program
    example: Tensor

    @classmethod
    def of(cls, module: nn.Module, step: Tensor, persistent: bool) -> Front:
        """Compiles it. Raises typed errors for what cannot stand before a stream."""
        check_example(in_python("stream", module), (step,))
        if persistent:
            raise UnsupportedProblem("stream", "front= on a GPU", "a front on the CPU", "Leave front= or device= out.")
        if step.dim() < 2:
            raise ShapeError("stream", f"{list(step.shape)}", "[streams, ...] for a front", "Add a dimension.")
        fast = compile(module, (step,), strict=True)
        if not isinstance(fast, CompiledModel):
            raise UnsupportedProblem("stream", f"front={type(module).__name__}, whose Python reads numbers of its inputs",
                                     "a front that computes with tensors alone", "Compute with tensors there.")  # fmt: skip
        port = one_group(fast._program)
        batch = fast._program.batch
        if port is None or port.value.dtype != "float32":
            raise UnsupportedProblem("stream", f"front={type(module).__name__}", "a model that is one native plan, with "
                                     "one float32 result", "See explain() of rt.compile(front, ...).")  # fmt: skip
        if port.lead != 1 or batch.lo > 1 or batch.hi is not None:
            raise UnsupportedProblem("stream", f"front={type(module).__name__}, whose batch is {batch}",
                                     "one that takes any number of rows", "Keep the first dimension as it comes.")  # fmt: skip
        with torch.no_grad():
            return cls(module, fast._program, module(step).flatten(1))

    def features(self, windows: Tensor) -> Tensor:
        """[batch, time, ...] to [batch, time, features]."""
        with torch.no_grad():
            made: Tensor = self.module(windows.flatten(0, 1))
        return made.reshape(*windows.shape[:2], -1)


class Fronted(nn.Module):
    """The front and the model over windows as they come, [batch, time, ...]: what the stream is compared with."""

    def __init__(self, front: nn.Module, model: nn.Module, layout: tuple[str, ...]) -> None:
        super().__init__()
        self.front, self.model, self.layout = front, model, layout
        self.eval()

    def forward(self, windows: Tensor) -> Any:
        features = self.front(windows.flatten(0, 1)).reshape(*windows.shape[:2], -1)
        return self.model(laid(features, self.layout))


def stream_with_front(
    model: nn.Module,
    front: Front,
    scheme: SchemeLike,
    calibration: Any,
    context: int | None,
    mode: str | None = None,
    delay: int = 0,
) -> StreamedModel:
    """Raises as `stream_program` does, and ShapeError for calibration data that are no windows of what the front takes."""
    windows = None if calibration is None else [as_args(b)[0] for b in batches_of("stream", calibration)]
    for window in windows or ():
        if window.dim() < 3:
            raise ShapeError("stream", f"calibration data of {list(window.shape)}", "[batch, time, ...] as the front "
                             "takes it", "Pass windows of the raw input.")  # fmt: skip
    features = None if windows is None else [front.features(window) for window in windows]
    refused: UnsupportedProblem | None = None
    for layout in LAYOUTS if features is not None else LAYOUTS[:1]:
        data = None if features is None else [laid(f, layout).contiguous() for f in features]
        try:
            found = stream_program(model, front.example, scheme, data, mode, context, delay=delay)
        except UnsupportedProblem as error:
            refused = refused or error
            continue
        both = Fronted(front.module, model, found.layout)
        return StreamedModel(both, joined("stream", front.program, found.program), found.states, LAYOUT)
    assert refused is not None
    raise refused


def laid(features: Tensor, layout: tuple[str, ...]) -> Tensor:
    """[batch, time, features] in the layout of a model."""
    return features.permute([LAYOUT.index(name) for name in layout])
