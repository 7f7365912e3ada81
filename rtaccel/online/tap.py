"""A model that gives what enters one of its layers beside its output, so that one compiled call has both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.online.ud_head import UdHead
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.tap import with_tap


class Tapped(nn.Module):
    """The model's output, and the input of one of its layers, [batch, features] float32."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.train(model.training)

    def forward(self, *inputs: Any, **named: Any) -> tuple[Any, Tensor]:
        """(the model's output, what the layer took in the last of its calls)."""
        taken: list[Tensor] = []
        hook = self.model.get_submodule(self.layer).register_forward_pre_hook(lambda _, args: taken.append(args[0]))
        try:
            y = self.model(*inputs, **named)
        finally:
            hook.remove()
        if not taken:
            raise UnsupportedProblem(
                "tapped",
                f"layer {self.layer!r}, which was not called",
                "a layer that every call reaches",
                "Tap another.",
            )
        return y, taken[-1].flatten(1)


def tapped(model: nn.Module, tap: str = "penultimate") -> nn.Module:
    """A module that returns (output, features [batch, n] float32).

    model: one to be compiled; or a compiled one, whose plan then gives both in one call.
    tap: the name of a layer, whose input becomes the features; "penultimate" is the last nn.Linear of the model in the order of
        its layers.

    Raises UnsupportedProblem where there is no such layer, and for a compiled model that is not one native plan, or whose
    features are int8: tap the model before it is compiled then.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).eval()
        >>> fast = rt.compile(rt.online.tapped(model), (torch.zeros(1, 4),))
        >>> [list(t.shape) for t in fast(torch.zeros(1, 4))]
        [[1, 1], [1, 8]]
    """
    if isinstance(model, CompiledModel):
        return with_tap(model, None if tap == "penultimate" else tap)
    return Tapped(model, _layer(model, tap))


def folded(model: nn.Module, example: Sequence[Tensor], head: UdHead, tap: str = "penultimate") -> dict[str, Tensor]:
    """The state dict of a model whose linear layer has learned what a head of `Adapt` has.

    model: the torch model that was tapped; it stays as it is.
    example: inputs, float32 [batch, ...], to see that the layer's output is the model's.
    head: of n features, or n + 1 with a constant one, where the layer has n inputs.
    tap: the layer, as for `tapped`.

    The layer's weight [outputs, n] and bias get the head's weights added, so that the model gives model + head from then on, up
    to rounding: to be loaded into the model. Raises UnsupportedProblem where the layer's output is not
    the model's, or where it has no bias for the head's constant; ShapeError for a head of another size.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).eval()
        >>> head = rt.online.RLSHead(9, 1)
        >>> sorted(rt.online.folded(model, (torch.zeros(1, 4),), head))
        ['0.bias', '0.weight', '2.bias', '2.weight']
    """
    name = _layer(model, tap)
    layer, given = model.get_submodule(name), []
    if not isinstance(layer, nn.Linear):
        raise UnsupportedProblem("folded", f"layer {name!r}, a {type(layer).__name__}", "an nn.Linear", "Tap another.")
    hook = layer.register_forward_hook(lambda _, args, y: given.append(y))
    try:
        with torch.no_grad():
            y = model(*example)
    finally:
        hook.remove()
    if not given or not isinstance(y, Tensor) or not torch.equal(given[-1], y):
        raise UnsupportedProblem(
            "folded",
            f"layer {name!r}, whose output is not the model's",
            "the last layer, with nothing behind it",
            "Let Adapt serve it.",
        )
    n, outputs = layer.in_features, layer.out_features
    if head.outputs != outputs or head.features not in (n, n + 1):
        raise ShapeError(
            "folded",
            f"a head {head.features} -> {head.outputs}",
            f"{n} or {n + 1} -> {outputs}",
            "Pass the head of this layer.",
        )
    if head.features > n and layer.bias is None:
        raise UnsupportedProblem(
            "folded", f"layer {name!r} without a bias", "one with a bias", "Use a head of n features."
        )
    w = torch.from_numpy(head.weights)
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    state[f"{name}.weight"] += w[:, :n]
    if head.features > n:
        state[f"{name}.bias"] += w[:, n]
    return state


def _layer(model: nn.Module, tap: str) -> str:
    layers = dict(model.named_modules())
    if tap == "penultimate":
        linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear) and name]
        if not linear:
            raise UnsupportedProblem(
                "tapped", f"{type(model).__name__} without an nn.Linear", "a last linear layer", "Name a layer in tap=."
            )
        tap = linear[-1]
    if not tap or tap not in layers:
        raise UnsupportedProblem("tapped", f"tap={tap!r}", f"one of {list(layers)[1:9]}", "Name a layer of the model.")
    return tap
