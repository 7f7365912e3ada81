"""What TorchScript has of Python, read and run again: the results are those of TorchScript and of the Python that it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rtaccel.convert.frontend.torchscript import in_python
from tests.support.scripts.forms import loaded
from tests.support.scripts.language import cases

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def same(got: Any, want: Any) -> None:
    """Structure, kinds and numbers."""
    if isinstance(want, torch.Tensor):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    elif isinstance(want, dict):
        assert isinstance(got, dict)
        assert list(got) == list(want)
        for key in want:
            same(got[key], want[key])
    elif isinstance(want, (list, tuple)):
        assert type(got).__name__ == type(want).__name__
        assert len(got) == len(want)
        assert getattr(got, "_fields", None) == getattr(want, "_fields", None)
        for a, b in zip(got, want):
            same(a, b)
    else:
        assert type(got) is type(want)
        assert got == want


@pytest.mark.parametrize("name", list(cases()))
def test_a_module_is_what_it_was(name: str) -> None:
    torch.manual_seed(3)
    model, args = cases()[name]
    scripted = torch.jit.script(model.eval())
    frozen = torch.jit.freeze(scripted)
    for script in (scripted, loaded(scripted), frozen, loaded(frozen)):
        read = in_python("compile", script)
        assert not isinstance(read, torch.jit.ScriptModule)
        with torch.no_grad():
            want = script(*args)
            same(read(*args), want)
            same(model(*args), want)
            same(read(*args), want)  # nothing of the first call is left
