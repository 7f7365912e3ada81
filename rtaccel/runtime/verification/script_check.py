"""A module of TorchScript and its form in Python, which must be the same on the example before anything is made of the form."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.convert.frontend.torchscript import title_of, with_read_tuples
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.nn.arrays import first_line
from rtaccel.runtime.build import ExportFailed
from rtaccel.runtime.verification.results import cloned, compare_results


def check_form(original: nn.Module, form: nn.Module, args: tuple[Any, ...]) -> None:
    """Raises ExportFailed where the form is not what it was made of; what the original raises of these arguments."""
    if form is original:
        return
    want = _result(original, args)
    try:
        differs, _ = compare_results(want, _result(form, args))
    except UnsupportedProblem as error:
        raise ExportFailed("compile", error.got, error.expected, error.next_step) from error
    except Exception as error:
        differs = f"{type(error).__name__}: {first_line(error)}"
    if differs is not None:
        raise ExportFailed(
            "compile",
            f"{title_of(original)}, whose TorchScript is another model in Python: {differs}",
            "the same results",
            "Compile the Python model that it was made of, and please report this one.",
        )


def _result(model: nn.Module, args: tuple[Any, ...]) -> Any:
    """Of a copy; both draw the same numbers, where they draw any."""
    with torch.no_grad(), torch.random.fork_rng([]):
        torch.manual_seed(5)
        return with_read_tuples(private_copy("compile", model)(*cloned(args)))
