"""A model that gives what enters one of its layers beside its output, so that one compiled call has both."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rtaccel.core.errors import UnsupportedProblem
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
    return Tapped(model, tap)
