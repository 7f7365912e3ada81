"""What is wrong with the input of a layer or the state given to it, or the plain contiguous copy that its plan takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.core.errors import ShapeError


def describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.is_nested:
        return "a nested tensor"  # its sizes cannot be asked for
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)} on {value.device}"


def check_input(op: str, x: Any, width: int, device: torch.device) -> None:
    """Raises ShapeError for the first thing that no copy could put right: type, layout, device, dtype, rank, width."""
    expected = f"float32[..., {width}] on {device}"
    if not isinstance(x, Tensor):
        raise ShapeError(op, describe(x), expected, "Pass a torch tensor.")
    if x.is_nested:
        raise ShapeError(op, describe(x), expected, "Pad it, as torch.nested.to_padded_tensor does.")
    if x.layout != torch.strided:
        raise ShapeError(op, f"{x.layout} {describe(x)}", expected, "Convert it with .to_dense().")
    if x.device != device:
        raise ShapeError(op, describe(x), expected, f"Move the input with .to('{device}'), or the layer to its device.")
    if x.dtype != torch.float32:
        raise ShapeError(op, describe(x), expected, "Convert it with .float(); nothing is cast silently.")
    if x.dim() == 0:
        raise ShapeError(op, describe(x), expected, f"Give it a last dimension of {width}.")
    if x.shape[-1] != width:
        raise ShapeError(op, describe(x), expected, f"The last dimension must be in_features = {width}.")


def dense(x: Tensor) -> Tensor:
    """The same numbers as a plain tensor in contiguous, aligned memory."""
    x = x.detach().as_subclass(Tensor).resolve_conj().resolve_neg().contiguous()
    return x if x.data_ptr() % x.element_size() == 0 else x.clone()


def copied(x: Tensor) -> Tensor:
    """The same numbers in memory of their own."""
    return dense(x).clone(memory_format=torch.contiguous_format)  # a stride of one element may be anything


def is_freed(value: Tensor) -> bool:
    """Whether the storage is smaller than what the tensor says it holds: reading it would read beyond."""
    reach = sum(stride * (size - 1) for stride, size in zip(value.stride(), value.shape))
    end = (value.storage_offset() + reach + 1) * value.element_size() if value.numel() else 0
    return value.untyped_storage().nbytes() < end


def is_subclass(tensor: Tensor) -> bool:
    """Whether this is memory with numbers, of a class that a library made of Tensor without a dispatch of its own."""
    own = type(tensor).__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl  # as fake tensors have
    return type(tensor) not in (Tensor, torch.nn.Parameter) and not own


def is_plain(tensor: Tensor) -> bool:
    """Whether this is memory with numbers, and nothing is watching what is done to it."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type in ("cpu", "cuda")
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and not torch._is_functional_tensor(tensor)
        and torch._C._len_torch_dispatch_stack() == 0
    )


def given_state(
    layer: nn.Module, state_dict: Mapping[str, Any], prefix: str, missing_keys: list[str], unexpected_keys: list[str]
) -> dict[str, Any] | None:
    """What a state dict has for the layer: its buffers and its description. None where that is not exactly these, whose
    names are added to the lists, as nn.Module reports them."""
    given = {name[len(prefix) :]: t for name, t in state_dict.items() if name.startswith(prefix)}
    own = {"_extra_state", *(name for name, t in layer._buffers.items() if t is not None)}
    if given.keys() == own:
        return given
    missing_keys.extend(prefix + name for name in sorted(own - given.keys()))
    unexpected_keys.extend(prefix + name for name in sorted(given.keys() - own))
    return None
