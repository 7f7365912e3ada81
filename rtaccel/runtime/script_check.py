"""A module of TorchScript and its form in Python, which must be the same on the example before anything is made of the form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.convert.frontend.torchscript import title_of, with_read_tuples
from rtaccel.core.errors import RtaccelError, UnsupportedProblem
from rtaccel.runtime.verify import difference


def check_form(original: nn.Module, form: nn.Module, args: tuple[Any, ...]) -> None:
    """Raises UnsupportedProblem where the form is not what it was made of; what the original raises of these arguments."""
    if form is original:
        return
    want = _result(original, args)
    try:
        got = _result(form, args)
    except RtaccelError:
        raise
    except Exception as error:
        raise _refusal(original, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from error
    differs = difference(want, got)
    if differs is not None:
        raise _refusal(original, differs)


def _result(model: nn.Module, args: tuple[Any, ...]) -> Any:
    """Of a copy; both draw the same numbers, where they draw any."""
    given = pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, args)
    with torch.no_grad(), torch.random.fork_rng([]):
        torch.manual_seed(5)
        return with_read_tuples(private_copy("compile", model)(*given))


def _refusal(original: nn.Module, said: str) -> UnsupportedProblem:
    return UnsupportedProblem(
        "compile",
        f"{title_of(original)}, whose TorchScript is another model in Python: {said}",
        "the same results",
        "Compile the Python model that it was made of, and please report this one.",
    )
