"""Networks of torchvision as TorchScript: as many native stages as in Python, and the same results at another batch."""

from __future__ import annotations

import pytest
import torch

import rtaccel as rt
from rtaccel.runtime.compiled import CompiledModel
from tests.support.scripts.forms import forms_of

models = pytest.importorskip("torchvision.models", reason="needs the package torchvision")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"),
    pytest.mark.turns(4),
]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_a_scripted_network_is_as_native_as_in_python(name: str) -> None:
    model = getattr(models, name)(weights=None).eval()
    x, more = torch.randn(1, 3, 64, 64), torch.randn(3, 3, 64, 64)
    plain = rt.compile(model, (x,), verify=False)
    assert isinstance(plain, CompiledModel)
    forms = forms_of(model, (x,))
    for form in ("loaded", "traced, loaded", "frozen, loaded", "optimized"):
        fast = rt.compile(forms[form], (x,), verify=False, strict=True)
        assert isinstance(fast, CompiledModel)
        assert fast.native == plain.native, form
        assert not fast.batch.fixed
        torch.testing.assert_close(fast(more), model(more).detach(), rtol=1e-3, atol=1e-4)
