"""Which layers of a model may be swapped, and why the others may not."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from rtaccel.core.errors import RtaccelError
from rtaccel.core.scheme import W4A8, W8A8, Float32, Scheme, SchemeMap
from rtaccel.nn.conv import QuantConv1d, QuantConv2d, check_module
from rtaccel.nn.linear import QuantLinear
from rtaccel.nn.params.linear import check_size
from rtaccel.nn.recurrent import QuantGRU, QuantLSTM
from rtaccel.nn.sparse import SparseLinear

Filter = Callable[[nn.Module, str], bool]

_READS_WEIGHTS: tuple[type[nn.Module], ...] = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules whose own fast path reads `layer.weight` of a child as a float matrix instead of calling the child."""


Swappable = nn.Linear | nn.Conv1d | nn.Conv2d | nn.LSTM | nn.GRU
Quantized = QuantLinear | QuantConv1d | QuantConv2d | QuantLSTM | QuantGRU
QUANTIZED: dict[type[nn.Module], type[Quantized]] = {
    nn.Linear: QuantLinear,
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.LSTM: QuantLSTM,
    nn.GRU: QuantGRU,
}
"""What takes the place of what."""


@dataclass(frozen=True, eq=False)
class SwapSite:
    """A layer under all its names. reason: why it is kept; None where it may be swapped. in_place: its weights may be changed
    all the same, as they are only read by another module."""

    module: Swappable
    names: tuple[str, ...]
    scheme: Scheme
    reason: str | None
    in_place: bool = False


def swappable_layers(
    model: nn.Module, schemes: SchemeMap, filter_fn: Filter | None, nearest: bool = False
) -> list[SwapSite]:
    """Every layer of a type in QUANTIZED below `model`, once each, in its order. nearest: convolutions take W8A8 where the scheme
    has int4 weights, as in a compiled model. Raises what filter_fn raises."""
    names: dict[int, list[str]] = defaultdict(list)
    found: dict[int, Swappable] = {}
    reading: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Swappable):
            names[id(module)].append(name)
            found[id(module)] = module
        if isinstance(module, _READS_WEIGHTS):
            for child in module.children():
                reading[id(child)] = type(module).__name__
    users = _users(model)
    layers = []
    for key, module in found.items():
        chosen = {str(scheme): scheme for scheme in (schemes(name) for name in names[key])}
        scheme = next(iter(chosen.values()))
        reason = "the patterns give its names different schemes" if len(chosen) > 1 else None
        if reason is None and isinstance(scheme, Float32):
            reason = "its scheme is float32"
        if nearest and is_conv(module) and isinstance(scheme, W4A8):
            scheme = scheme.nearest()
        if reason is None and is_conv(module) and not isinstance(scheme, W8A8):
            reason = f"a convolution has no form for {scheme}"
        if reason is None and filter_fn is not None:
            wanted = [bool(filter_fn(module, name)) for name in names[key]]
            if not all(wanted):
                reason = "filter_fn left out one of its names" if any(wanted) else "filter_fn left it out"
        if reason is None and isinstance(module, nn.RNNBase) and not isinstance(scheme, (W8A8, W4A8)):
            reason = f"{scheme} has no recurrent layer: w8a8 and w4a8 do"
        own = _obstacle(module, users)
        in_place = reason is None and own is None
        reason = (
            reason or own or (f"its weight is read by {reading[key]}, not only its result" if key in reading else None)
        )
        layers.append(SwapSite(module, tuple(names[key]), scheme, reason, in_place))
    return layers


def swapped_before(op: str, model: nn.Module, alone: bool) -> tuple[str, ...]:
    """A note on layers that an earlier call has swapped: they are none of torch's, and stay. alone: whether there are no others,
    so that nothing is done; then it is a warning too."""
    own = (*QUANTIZED.values(), SparseLinear)
    found = {id(m): f"{name} ({type(m).__name__})" for name, m in model.named_modules() if name and isinstance(m, own)}
    if not found:
        return ()
    named = ", ".join(list(found.values())[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    note = f"swapped before, and left as they are: {named}; rt.restore_(model) first puts torch's layers back"
    if alone:
        warnings.warn(f"{op}: {note}", UserWarning, stacklevel=3)
    return (note,)


def attention_layers(
    model: nn.Module, filter_fn: Filter | None
) -> list[tuple[nn.MultiheadAttention, tuple[str, ...], str | None]]:
    """Every nn.MultiheadAttention below `model`, its names, and why its weights may not be changed."""
    names: dict[int, list[str]] = defaultdict(list)
    found: dict[int, nn.MultiheadAttention] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.MultiheadAttention) and name:
            names[id(module)].append(name)
            found[id(module)] = module
    users, layers = _users(model), []
    for key, module in found.items():
        reason = None
        if filter_fn is not None and not all(filter_fn(module, name) for name in names[key]):
            reason = "filter_fn left it out"
        elif type(module) is not nn.MultiheadAttention or module.in_proj_weight is None:
            reason = "has queries, keys and values of different widths, or a forward of its own"
        elif any(is_parametrized(m) for m in module.modules()) or any(
            len(users[_memory(p)]) > 1 for p in module.parameters()
        ):
            reason = "has parametrizations, or shares its weights with another module"
        elif module.in_proj_weight.dtype != torch.float32 or module.training:
            reason = "is not float32, or in training mode"
        layers.append((module, tuple(names[key]), reason))
    return layers


def is_conv(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv1d, nn.Conv2d))


def shape_of(module: Swappable) -> tuple[int, int]:
    """(outputs, inputs of each): of a recurrent layer (units, inputs), of a convolution (filters, numbers of each)."""
    if isinstance(module, (nn.LSTM, nn.GRU)):
        return module.hidden_size, module.input_size
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return module.weight.shape[0], module.weight[0].numel()
    return module.out_features, module.in_features


def _memory(tensor: torch.Tensor) -> int:
    """The same for tensors that share memory, whatever views they are."""
    try:
        address = tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # a tensor without storage: sparse, fake or lazy
        return id(tensor)
    return address or id(tensor)


def _users(model: nn.Module) -> dict[int, set[int]]:
    """Memory of every parameter and buffer -> the modules that hold it."""
    users: dict[int, set[int]] = defaultdict(set)
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            users[_memory(tensor)].add(id(module))
    return users


def _obstacle(module: Swappable, users: dict[int, set[int]]) -> str | None:
    """What would go wrong if this layer were swapped; None for nothing."""
    if is_parametrized(module):
        return "has parametrizations: a swap would freeze them"
    if type(module) not in QUANTIZED:
        base = next(kind.__name__ for kind in QUANTIZED if isinstance(module, kind))
        return f"is a {type(module).__name__}, whose forward may not be that of nn.{base}"
    if "forward" in module.__dict__:
        return "has a forward of its own, set on the instance"
    if any(getattr(module, f"_{kind}") for kind in ("forward_hooks", "forward_pre_hooks", "backward_hooks",
                                                     "backward_pre_hooks")):  # fmt: skip
        return "has hooks: a swap would drop them"
    weight = module.weight_ih_l0 if isinstance(module, nn.RNNBase) else module.weight
    tied = [p for p in module.parameters(recurse=False) if len(users[_memory(p)]) > 1]
    if tied:
        return "shares its weight or bias with another module"
    if weight.dtype != torch.float32:
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}, not float32"
    if weight.device.type not in ("cpu", "cuda"):
        return f"is on {weight.device}, not on the CPU or a CUDA GPU"
    if module.training:
        return "is in training mode"
    if isinstance(module, nn.RNNBase) and module.proj_size:
        return "projects its h (proj_size), which has no quantized form"
    try:
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            check_module("swap", module)
        else:
            check_size("swap", *shape_of(module))
    except RtaccelError as error:
        return f"{error.got}, where {error.expected} is needed"
    return None
