"""What rules for computed indices share: operands, where indices vary, and how indices of several dimensions broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.iteration import Iteration
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.view_ops import Arguments
from rtaccel.convert.patterns.rules import Call, Refused

ONE = (Atom(1, 1),)
INDEX_DTYPES = (torch.int64, torch.int32)


class Operands:
    """The operands of one call in order: inputs of the stage, and constants by name."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.reads: list[str] = []
        self.tensors: dict[str, Tensor] = {}

    def see(self, value: Any, dtype: torch.dtype | None = None) -> View:
        """Where an operand lies; a constant has no base."""
        constant = self.call.repeated(value)
        if constant is None:
            return self.call.stored(value)
        return layout.dense("", constant.shape, None)

    def add(self, name: str, value: Any, view: View) -> None:
        """In the order in which the stage has them."""
        if view.base:
            self.reads.append(view.base)
            return
        if isinstance(value, fx.Node):
            found = self.call.repeated(value)
            assert found is not None
        else:
            found = torch.tensor(value)
        self.tensors[name] = self.stored(found)

    def stored(self, constant: Tensor) -> Tensor:
        dtype = torch.int64 if constant.dtype in INDEX_DTYPES else torch.float32
        if constant.dtype not in (*INDEX_DTYPES, torch.bool, torch.float32) or constant.numel() == 0:
            raise Refused(f"has a constant of {constant.dtype}")
        return constant.detach().cpu().to(dtype).reshape(-1).contiguous()


def index_view(operands: Operands, value: Any) -> View:
    if not isinstance(value, fx.Node) or value.meta["val"].dtype not in INDEX_DTYPES:
        raise Refused("takes elements by truth values, as many as there are")
    return operands.see(value)


def in_runs(call: Call, operands: Operands, view: View, dims: Sequence[int]) -> tuple[View, list[Atom]]:
    """The view with each of `dims` in one run; another view where it had to be copied for that."""
    runs = [layout.run_of(view, d) for d in dims]
    if any(run is None for run in runs) and view.base:
        if any(view.has_batch(d) for d in dims):
            raise Refused("takes some samples")
        view = call.build.packed(view)
        runs = [layout.run_of(view, d) for d in dims]
    found = [run for run in runs if run is not None]
    if len(found) != len(runs):
        raise Refused("layout: takes elements of a dimension that no strides describe")
    return view, found


def kept_of(found: Iteration, indices: Sequence[int]) -> int:
    """How many dimensions, of those in front, indices vary in."""
    used = [d for i in indices for d, stride in enumerate(found.places[i][1:]) if stride]
    return max(used, default=-1) + 1


def cut_to(view: View, shape: Sequence[int], but: int) -> View:
    """The first elements of each dimension, as many as `shape` has; 1 of dimension `but`, where another index goes."""
    for d, size in enumerate(shape):
        if d == but:
            view = View(view.base, (*view.dims[:d], ONE, *view.dims[d + 1 :]), view.offset)
        elif not view.has_batch(d) and view.shape[d] != size and view.shape[d] != 1:
            cut = layout.slice_of(view, d, 0, size, 1)
            if cut is None:
                raise Refused("layout: takes a part of a dimension that no strides describe")
            view = cut
    return view


class Indexed:
    """x[i, :, j]: where its dimensions go. `view` and `indices` are against the result."""

    def __init__(self, call: Call, operands: Operands, view: View, given: Sequence[Any]) -> None:
        self.operands = operands
        indices = [*given, *[None] * (len(view.dims) - len(given))]
        at = [d for d, i in enumerate(indices) if i is not None]
        alike = not view.base  # the same for every sample: of one
        samples = [
            d for d in at if counts_samples(indices[d]) and (view.has_batch(d) or (alike and view.shape[d] == 1))
        ]
        chosen = [d for d in at if d not in samples]
        if not chosen or any(view.has_batch(d) for d in chosen):
            raise Refused("takes some samples")
        view, self.runs = in_runs(call, operands, view, chosen)
        found = {d: index_view(operands, indices[d]) for d in chosen}
        rank = max(i.meta["val"].dim() for i in indices if i is not None)
        common: list[tuple[Atom, ...]] = [ONE] * rank
        for d in samples:
            meta = indices[d].meta["val"]
            for k, size in enumerate(meta.shape):
                if not isinstance(size, int) and view.has_batch(d):
                    common[rank - meta.dim() + k] = view.dims[d]
        others = [d for d in range(len(view.dims)) if d not in at]
        beside = at == list(range(at[0], at[-1] + 1))
        front = [d for d in others if d < at[0]] if beside else []
        behind = [d for d in others if d not in front]
        self.view = View(
            view.base, (*(view.dims[d] for d in front), *common, *(view.dims[d] for d in behind)), view.offset
        )
        self.indices: list[tuple[Any, View]] = []
        for d in chosen:
            own = found[d]
            dims = (*[ONE] * len(front), *[ONE] * (rank - len(own.dims)), *own.dims, *[ONE] * len(behind))
            self.indices.append((indices[d], View(own.base, dims, own.offset)))


def counts_samples(value: Any) -> bool:
    """Whether an index is 0, 1, 2, ... for as many samples as there are: each takes of itself."""
    if not isinstance(value, fx.Node):
        return False
    open_sizes = [s.node.expr for s in value.meta["val"].shape if not isinstance(s, int)]
    while value.target in (
        aten.view.default, aten.unsqueeze.default, aten.expand.default, aten.reshape.default, aten.alias.default,
        aten.slice.Tensor,
    ):  # fmt: skip
        value = value.args[0]
    if value.target not in (aten.arange.default, aten.arange.start, aten.arange.start_step):
        return False
    size, given = value.meta["val"].shape[0], Arguments(value)
    start = 0 if value.target is aten.arange.default else given["start"]
    step = given["step"] if value.target is aten.arange.start_step else 1
    if isinstance(size, int) or not size.node.expr.is_Symbol or start != 0 or step != 1:
        return False
    return open_sizes == [size.node.expr]
