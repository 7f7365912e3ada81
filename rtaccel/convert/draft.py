"""Drafts: what a node of the graph becomes, before neighbours are fused and numbers are quantised.

A draft reads and writes nodes by name. Fusing is merging drafts: BatchNorm into the linear layer before or
behind it, an activation into what feeds it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.core.stage import Quant

Frame = tuple[Any, ...]
"""The leading dimensions that are rows: numbers, or symbols of an open batch."""


@dataclass
class Draft:
    """op: an operator, or "torch" for a call that stays as it is.

    node: the graph node whose value it gives. reads: names of its inputs. frame: rows of its value.
    width: columns. tensors, attrs: as a stage has them, still in float32.
    reason: for "torch", why no operator takes it. quant: what the int8 input of a swapped layer means, where it is static;
    float_input: whether a swapped layer reads its input as it is.
    """

    op: str
    node: fx.Node
    name: str
    reads: list[str] = field(default_factory=list)
    frame: Frame = ()
    width: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    quant: Quant | None = None
    float_input: bool = False

    @property
    def swapped(self) -> bool:
        """A linear layer whose weights are quantised already."""
        return self.op == "linear" and self.tensors["weight"].dtype != torch.float32

    @property
    def activation(self) -> str:
        return self.attrs.get("activation", "none")

    @property
    def affine_only(self) -> bool:
        """A scale and shift per column and nothing else: it can fold into a neighbour."""
        return self.op == "pointwise" and "scale" in self.tensors and len(self.reads) == 1 and self.activation == "none"


def module_name(node: fx.Node) -> str:
    """Dotted name of the module that the call came from; the node's own name where it has none."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return path if isinstance(path, str) and path and not path.startswith("_empty") else node.name


def fold(drafts: list[Draft], outputs: set[str]) -> list[Draft]:
    """Merges what can be merged; the value of a merged pair keeps the name of the later node.

    outputs: names that the model returns; a value that is returned or read twice must stay.
    """
    changed = True
    while changed:
        changed = False
        users: dict[str, list[Draft]] = {}
        for draft in drafts:
            for name in draft.reads:
                users.setdefault(name, []).append(draft)
        made = {draft.node.name: draft for draft in drafts}
        for draft in drafts:
            source = made.get(draft.reads[0]) if draft.reads else None
            if draft.op == "torch" or source is None or source.op == "torch" or source.frame != draft.frame:
                continue
            only_user = len(users[source.node.name]) == 1 and source.node.name not in outputs
            if only_user and _merge(source, draft):
                draft.reads, draft.op, draft.tensors = source.reads, source.op, source.tensors
                draft.attrs = {**source.attrs, **draft.attrs}
                draft.name, draft.quant = (source.name, source.quant) if source.op == "linear" else (draft.name, None)
                draft.float_input = source.float_input
                drafts.remove(source)
                changed = True
                break
            all_linear = all(u.op == "linear" and not u.swapped for u in users[source.node.name])
            if draft.op == "linear" and source.affine_only and all_linear and source.node.name not in outputs:
                for user in users[source.node.name]:
                    _fold_forward(source, user)
                drafts.remove(source)
                changed = True
                break
    return drafts


def _merge(source: Draft, draft: Draft) -> bool:
    """Folds `draft`, a pointwise one, into what feeds it, in place in `source`; False where they do not merge."""
    if draft.op != "pointwise" or source.activation != "none" or len(draft.reads) != 1:
        return False
    if source.op == "linear":
        if source.swapped and "scale" in draft.tensors:
            return False  # quantised weights are what they are
        if "scale" in draft.tensors:  # computed in float64: folding should cost no precision
            scale, shift = draft.tensors["scale"].double(), draft.tensors["shift"].double()
            source.tensors["weight"] = (source.tensors["weight"].double() * scale[:, None]).float()
            source.tensors["bias"] = (source.tensors["bias"].double() * scale + shift).float()
        draft.tensors = source.tensors
        return True
    return source.op == "pointwise" and "scale" not in draft.tensors


def _fold_forward(affine: Draft, linear: Draft) -> None:
    """linear(x * scale + shift) = (W * scale) x + (bias + W shift)."""
    weight = linear.tensors["weight"].double()
    scale, shift = affine.tensors["scale"].double(), affine.tensors["shift"].double()
    linear.tensors["bias"] = (linear.tensors["bias"].double() + weight @ shift).float()
    linear.tensors["weight"] = (weight * scale).float()
    linear.reads = [affine.reads[0] if name == affine.node.name else name for name in linear.reads]


def zeros_like_rows(weight: Tensor) -> Tensor:
    return torch.zeros(weight.shape[0], dtype=torch.float32, device=weight.device)
