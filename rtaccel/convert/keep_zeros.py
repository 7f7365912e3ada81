"""Training on with the zeros of a pruned model in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rtaccel.core.errors import UnsupportedProblem


@contextmanager
def keep_zeros(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While it lasts, weights of nn.Linear layers that are zero at its start get no gradient; at its end they are zero.

    Make the optimiser inside, so that it has no momentum for them from before. Gives the masks by parameter name, True where
    a weight may change. Raises UnsupportedProblem for a model without a zero in any linear weight.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)).eval()
        >>> _ = rt.sparsify_(model, rt.Unstructured(0.5), swap=False)
        >>> with rt.keep_zeros(model):
        ...     optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        ...     model(torch.randn(16, 8)).square().mean().backward()
        ...     optimiser.step()
        >>> float((model[0].weight == 0).float().mean())
        0.5
    """
    masks: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and bool((module.weight == 0).any()):
            full = f"{name}.weight" if name else "weight"
            weights[full], masks[full] = module.weight, module.weight.detach() != 0
    if not masks:
        raise UnsupportedProblem(
            "keep_zeros", "a model without zeros in its linear weights", "a pruned model",
            "Call rt.sparsify_(model, ..., swap=False) first.",
        )  # fmt: skip

    def masked(mask: Tensor) -> object:
        return lambda gradient: gradient * mask.to(gradient.device)

    handles = [w.register_hook(masked(masks[name])) for name, w in weights.items() if w.requires_grad]
    try:
        yield masks
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(masks[name].to(weight.device))
