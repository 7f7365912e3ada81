"""Random modules, in every form of TorchScript: read, they compute what they were; compiled, they are as native as in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import rtaccel as rt
from rtaccel.convert.frontend.torchscript import in_python
from rtaccel.runtime.compiled import CompiledModel
from tests.support.scripts.forms import forms_of
from tests.support.scripts.random_modules import WIDTH, module_of

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
READ, COMPILED = 16, 6


@pytest.mark.parametrize("seed", range(READ))
def test_read_modules_are_what_they_were(seed: int, tmp_path: Path) -> None:
    model, x = module_of(seed, tmp_path), torch.randn(3, WIDTH)
    more = torch.randn(5, WIDTH)
    with torch.no_grad():
        wanted = [model(x), model(more)]
        for script in forms_of(model, (x,)).values():
            read = in_python("compile", script)
            for given, want in zip((x, more), wanted):
                torch.testing.assert_close(read(given), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(100, 100 + COMPILED))
def test_compiled_modules_are_as_in_python(seed: int, tmp_path: Path) -> None:
    model, x = module_of(seed, tmp_path), torch.randn(3, WIDTH)
    plain = rt.compile(model, (x,))
    assert isinstance(plain, CompiledModel)
    with torch.no_grad():
        exact = model.double()(x.double())
        model.float()
    forms = forms_of(model, (x,))
    assert len(forms) >= 5
    for name in list(forms)[seed % 3 :: 3]:
        fast = rt.compile(forms[name], (x,))
        assert isinstance(fast, CompiledModel), name
        assert fast.native[0] == fast.native[1] or fast.native == plain.native, name
        assert fast.batch.fixed == plain.batch.fixed, name
        assert fast.batch.lo <= max(plain.batch.lo, 1), name  # of no sample some scripts say nothing, where Python does
        torch.testing.assert_close(fast(x).double(), exact, rtol=1e-4, atol=1e-4)
