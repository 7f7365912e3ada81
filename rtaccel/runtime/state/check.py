"""What a tensor of a state dict has to be, before anything is changed by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.formats.int4 import require_scales
from rtaccel.nn.check import is_freed

MIN_SCALE, MAX_SCALE = 2.0**-126, 2.0**126
"""A scale and its inverse are ordinary float32 numbers."""


def check(own: Mapping[str, Tensor], given: Mapping[str, Any]) -> None:
    """Raises FormatError for a tensor that does not mean what the buffer of its name means."""
    for name, value in given.items():
        buffer = own.get(name)
        if buffer is None or name == "structure":
            continue  # names that are unexpected are judged elsewhere
        _check_kind(name, buffer, value)
        leaf = name.rsplit(".", 1)[-1]
        if value.is_floating_point() and not _as_finite_as(buffer, value):
            raise FormatError("load_state_dict", f"{name} with a NaN or infinity", "finite numbers", "Save it again.")
        if leaf.endswith("group_scale"):
            require_scales("load_state_dict", name, value)
        elif leaf.endswith("_scale") and leaf != "input_column_scale":
            _check_scale(name, value)
        if leaf.endswith("zero_point") and not -128 <= int(value) <= 127:
            raise FormatError("load_state_dict", f"{name} = {int(value)}", "-128..127", "Save it again.")
        if leaf.startswith("weight") and value.dtype == torch.int8 and (value == -128).any():
            raise FormatError(
                "load_state_dict", f"{name} holds -128", "int8 weights in -127..127", "Quantize it again."
            )


def _as_finite_as(own: Tensor, given: Tensor) -> bool:
    """Whether a NaN or infinity is only where the model has the same itself, such as in a mask of -inf."""
    numbers = given.float()  # float8 has no isfinite
    if torch.isfinite(numbers).all():
        return True
    known = own.float()
    same = (numbers == known) | (numbers.isnan() & known.isnan())
    return bool((torch.isfinite(numbers) | same.to(numbers.device)).all())


def _check_kind(name: str, buffer: Tensor, value: Any) -> None:
    if not isinstance(value, Tensor):
        got, next_step = f"{name}: {type(value).__name__}", "Load tensors."
    elif value.device.type == "meta":
        got, next_step = f"{name} on the meta device, without numbers", "Load a state dict with numbers."
    elif value.layout == torch.strided and is_freed(value):
        got, next_step = f"{name}, whose memory was freed", "Load tensors that hold their numbers."
    elif value.layout != torch.strided:
        got, next_step = f"{name}: {value.layout}", "Convert it with .to_dense()."
    elif value.dtype != buffer.dtype or value.shape != buffer.shape:
        got = f"{name}: {value.dtype}{list(value.shape)}"
        next_step = "Load a state dict of a model compiled from the same architecture and scheme."
    else:
        return
    raise FormatError("load_state_dict", got, f"{buffer.dtype}{list(buffer.shape)}", next_step)


def _check_scale(name: str, value: Tensor) -> None:
    numbers = value.double()
    if not (numbers > 0).all():
        raise FormatError("load_state_dict", f"{name} not above 0", "positive scales", "Save it again.")
    if (numbers < MIN_SCALE).any() or (numbers > MAX_SCALE).any():
        raise FormatError(
            "load_state_dict", f"{name} from {float(numbers.min()):.3g} to {float(numbers.max()):.3g}",
            f"scales from {MIN_SCALE:.3g} to {MAX_SCALE:.3g}", "Calibrate it again.",
        )  # fmt: skip
