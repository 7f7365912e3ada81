"""The matrices that pruning works on: weights of a layer by rows and columns, and what each of them multiplies.

layer                     matrices                                                its inputs
nn.Linear                 weight [N, K]                                           rows of the input
nn.Conv1d, nn.Conv2d      weight [N, C * taps], without groups                    the patch of each position
nn.LSTM, nn.GRU           weight_ih, weight_hh of each layer and direction        rows of its input; h of the moment before
nn.MultiheadAttention     query, key and value part of in_proj_weight, out_proj   rows of query, key, value; the heads' results
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Union

import torch
from torch import Tensor, nn

from rtaccel.core.errors import UnsupportedProblem

Prunable = Union[nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.GRU, nn.MultiheadAttention]


@dataclass(frozen=True)
class Matrix:
    """Rows first .. last - 1 of a parameter, and of the bias that is added to its products (None: there is none).

    label: what it is called in a report beside the layer's name; "" for a layer's only matrix.
    """

    parameter: str
    bias: str | None
    first: int
    last: int
    label: str = ""

    def weight(self, module: nn.Module) -> Tensor:
        """[N, K], a view."""
        return module.get_parameter(self.parameter).detach()[self.first : self.last].flatten(1)

    def own_bias(self, module: nn.Module) -> Tensor | None:
        return None if self.bias is None else module.get_parameter(self.bias).detach()[self.first : self.last]

    def write(self, module: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
        with torch.no_grad():
            whole = module.get_parameter(self.parameter)[self.first : self.last]
            whole.copy_(weight.reshape(whole.shape))
            if bias is not None and self.bias is not None:
                module.get_parameter(self.bias)[self.first : self.last].copy_(bias)


def matrices_of(module: nn.Module) -> list[Matrix]:
    """In the order of `fed`."""
    if isinstance(module, (nn.LSTM, nn.GRU)):
        return [_whole(module, name, name) for name in _recurrent_weights(module)]
    if isinstance(module, nn.MultiheadAttention):
        width, bias = module.embed_dim, None if module.in_proj_bias is None else "in_proj_bias"
        parts = [
            Matrix("in_proj_weight", bias, i * width, (i + 1) * width, label)
            for i, label in enumerate(("query", "key", "value"))
        ]
        last = None if module.out_proj.bias is None else "out_proj.bias"
        return [*parts, Matrix("out_proj.weight", last, 0, width, "out_proj")]
    return [_whole(module, "weight")]


def _whole(module: nn.Module, name: str, label: str = "") -> Matrix:
    bias = name.replace("weight", "bias")
    return Matrix(
        name, bias if getattr(module, bias, None) is not None else None, 0, getattr(module, name).shape[0], label
    )


def _recurrent_weights(module: nn.LSTM | nn.GRU) -> Iterator[str]:
    for layer in range(module.num_layers):
        for suffix in ("", "_reverse") if module.bidirectional else ("",):
            yield f"weight_ih_l{layer}{suffix}"
            yield f"weight_hh_l{layer}{suffix}"


def fed(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """What each matrix of a layer multiplies in a call: rows [.., K], in the order of `matrices_of`."""
    with torch.no_grad():
        if isinstance(module, nn.MultiheadAttention):
            found = _attention(module, args, kwargs)
        else:
            x = args[0] if args else kwargs["input"]
            if not isinstance(x, Tensor):
                raise UnsupportedProblem(
                    "calibration", f"a {type(x).__name__} for {type(module).__name__}", "plain tensors",
                    "Calibrate with sequences of one length, or leave this layer out with filter_fn.",
                )  # fmt: skip
            if isinstance(module, (nn.LSTM, nn.GRU)):
                found = _recurrent(module, x, args[1] if len(args) > 1 else kwargs.get("hx"))
            elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
                found = [_patches(module, x)]
            else:
                found = [x]
    return [x.reshape(-1, x.shape[-1]) for x in found]


def _patches(module: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """[B, positions, C * taps], in the order of a filter's numbers."""
    spatial = len(module.kernel_size)
    x = x if x.dim() == spatial + 2 else x[None]
    x = nn.functional.pad(x, module._reversed_padding_repeated_twice)
    if spatial == 1:
        x = x[:, :, None]
    sizes = [(1,) * (2 - spatial) + tuple(s) for s in (module.kernel_size, module.dilation, module.stride)]
    return nn.functional.unfold(x, sizes[0], dilation=sizes[1], stride=sizes[2]).transpose(1, 2)


def _recurrent(module: nn.LSTM | nn.GRU, x: Tensor, hx: Any) -> list[Tensor]:
    """Layer by layer: its input, and h of the moment before."""
    x = x.transpose(0, 1) if module.batch_first and x.dim() == 3 else x
    x = x if x.dim() == 3 else x[:, None]
    states = () if hx is None else tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
    directions = 2 if module.bidirectional else 1
    names = list(_recurrent_weights(module))
    found = []
    for layer in range(module.num_layers):
        one = type(module)(x.shape[2], module.hidden_size, bias=module.bias, bidirectional=module.bidirectional)
        rows = slice(layer * directions, (layer + 1) * directions)
        own = [s.reshape(module.num_layers * directions, -1, module.hidden_size)[rows].contiguous() for s in states]
        for name in dict(one.named_parameters()):
            setattr(one, name, nn.Parameter(getattr(module, name.replace("_l0", f"_l{layer}")).detach()))
        y, _ = one(x, (tuple(own) if len(own) > 1 else own[0]) if own else None)
        for direction in range(directions):
            start = own[0][direction] if own else x.new_zeros(x.shape[1], module.hidden_size)
            h = y[..., direction * module.hidden_size : (direction + 1) * module.hidden_size]
            before = torch.cat([h[1:], start[None]]) if direction else torch.cat([start[None], h[:-1]])
            found += [x, before]
        x = y
    assert len(found) == len(names)
    return found


def _attention(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """query, key, value, and what out_proj multiplies: the result with a unit matrix in its place."""
    given = [*args, *(kwargs[n] for n in ("query", "key", "value")[len(args) :])][:3]
    clone = copy.deepcopy(module)
    clone._forward_pre_hooks.clear()
    clone.out_proj.weight.copy_(torch.eye(module.embed_dim))
    if clone.out_proj.bias is not None:
        clone.out_proj.bias.zero_()
    return [*given, clone(*args, **kwargs)[0]]
