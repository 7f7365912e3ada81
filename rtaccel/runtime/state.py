"""The numbers of a compiled model as plain buffers, so that its state dict is an ordinary one.

`stages.<i>.<tensor>` are the logical weights of stage i; `stages.<i>.output_scale` and `.output_zero_point`
what its int8 output means; `constants.<name>` the parameters of calls that stayed torch's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.program import Program
from rtaccel.core.errors import FormatError
from rtaccel.core.stage import Quant, Stage
from rtaccel.formats.int4 import require_scales
from rtaccel.kernels.sparse_linear import contract


class StageNumbers(nn.Module):
    """Buffers of one stage."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        for name, tensor in stage.tensors.items():
            self.register_buffer(name, tensor.clone())
        for value in stage.outputs:
            if value.quant is not None:
                self.register_buffer("output_scale", torch.tensor(value.quant.scale, dtype=torch.float32, device="cpu"))
                self.register_buffer(
                    "output_zero_point", torch.tensor(value.quant.zero_point, dtype=torch.int32, device="cpu")
                )

    def tensors(self, stage: Stage) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in stage.tensors}

    def quant(self) -> Quant | None:
        buffers = dict(self.named_buffers())
        if "output_scale" not in buffers:
            return None
        return Quant(buffers["output_scale"].item(), int(buffers["output_zero_point"].item()))


class Constants(nn.Module):
    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in constants.items():
            self.register_buffer(name, tensor)


def current(program: Program, stages: nn.ModuleList) -> Program:
    """The program with the numbers that the buffers hold now."""
    tensors, quants = [], {}
    for numbers, stage in zip(stages, program.stages):
        assert isinstance(numbers, StageNumbers)
        tensors.append(numbers.tensors(stage))
        quant = numbers.quant()
        if quant is not None:
            quants[stage.outputs[0].name] = quant
    return program.with_numbers(tensors, quants)


def check_sparse(program: Program, stages: nn.ModuleList, given: Mapping[str, Any]) -> None:
    """Raises FormatError for sparse weights that do not fit: an index is refused before anything reads by it."""
    for i, (numbers, stage) in enumerate(zip(stages, program.stages)):
        if stage.op == "sparse_linear" and isinstance(numbers, StageNumbers):
            tensors = {n: given.get(f"stages.{i}.{n}", t) for n, t in numbers.tensors(stage).items()}
            contract.check(f"load_state_dict: {stage.name}", tensors, stage.outputs[0].width, stage.inputs[0].width)


def check(own: Mapping[str, Tensor], given: Mapping[str, Any]) -> None:
    """Raises FormatError for a tensor that does not mean what the buffer of its name means; changes nothing."""
    for name, value in given.items():
        buffer = own.get(name)
        if buffer is None or not isinstance(value, Tensor):
            continue  # names that are missing or unexpected are for load_state_dict(strict=) to judge
        if value.dtype != buffer.dtype or value.shape != buffer.shape:
            raise FormatError(
                "load_state_dict",
                f"{name}: {value.dtype}{list(value.shape)}",
                f"{buffer.dtype}{list(buffer.shape)}",
                "Load a state dict of a model compiled from the same architecture and scheme.",
            )
        if value.is_floating_point() and not torch.isfinite(value.float()).all():  # float8 has no isfinite
            raise FormatError("load_state_dict", f"{name} with a NaN or infinity", "finite numbers", "Save it again.")
        if name.endswith("group_scale"):
            require_scales("load_state_dict", name, value)
        elif name.endswith("_scale") and not (value > 0).all():
            raise FormatError("load_state_dict", f"{name} not above 0", "positive scales", "Save it again.")
        if name.endswith("zero_point") and not -128 <= int(value) <= 127:
            raise FormatError("load_state_dict", f"{name} = {int(value)}", "-128..127", "Save it again.")
        if name.endswith(".weight") and value.dtype == torch.int8 and (value == -128).any():
            raise FormatError(
                "load_state_dict", f"{name} holds -128", "int8 weights in -127..127", "Quantise it again."
            )
