"""Training on with the zeros of a pruned model in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.checks import check_no_script
from rtaccel.convert.pruning.weight_matrices import Prunable, matrices_of
from rtaccel.core.errors import UnsupportedProblem


@contextmanager
def keep_zeros(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While it lasts, weights that are zero at its start get no gradient; at its end they are zero. Weights are those that
    `sparsify_` prunes: of linear layers, convolutions, LSTM, GRU and attention.

    Make the optimizer inside, so that it has no momentum for them from before. Gives the masks by parameter name, True where
    a weight may change. Raises UnsupportedProblem for a model without a zero in any weight.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)).eval()
        >>> _ = rt.sparsify_(model, rt.Unstructured(0.5), swap=False)
        >>> with rt.keep_zeros(model):
        ...     optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        ...     model(torch.randn(16, 8)).square().mean().backward()
        ...     optimizer.step()
        >>> float((model[0].weight == 0).float().mean())
        0.5
    """
    check_no_script("keep_zeros", model)
    if not isinstance(model, nn.Module):
        raise UnsupportedProblem("keep_zeros", type(model).__name__, "an nn.Module", "Pass the model itself.")
    masks: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if not isinstance(module, get_args(Prunable)):
            continue
        for parameter in dict.fromkeys(matrix.parameter for matrix in matrices_of(module)):
            weight = module.get_parameter(parameter)
            if bool((weight == 0).any()):
                full = f"{name}.{parameter}" if name else parameter
                weights[full], masks[full] = weight, weight.detach() != 0
    if not masks:
        raise UnsupportedProblem(
            "keep_zeros", "a model without zeros in its weights", "a pruned model",
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
