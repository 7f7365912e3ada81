"""Arguments that nothing in a model reads: checked as the others, and no detour for a call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Two(nn.Module):
    def __init__(self, reads: int) -> None:
        super().__init__()
        self.layer, self.reads = nn.Linear(7, 5), reads

    def forward(self, *given: Tensor) -> Tensor:
        return self.layer(given[self.reads])


UNREAD = {
    "real": lambda g: torch.randn(3, 2, generator=g),
    "whole": lambda g: torch.randint(0, 9, (3,), generator=g),
    "int32": lambda g: torch.randint(0, 9, (3, 4), generator=g).int(),
    "truth": lambda g: torch.rand(3, 4, generator=g) > 0.5,
    "bytes": lambda g: torch.randint(0, 255, (3, 2, 2), generator=g).byte(),
    "other batch": lambda g: torch.randn(2, 6, generator=g),
    "number": lambda g: torch.tensor(2.5),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", UNREAD)
def test_one_call_and_checked(name: str, first: bool, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(5)
    x, other = torch.randn(3, 7, generator=g), UNREAD[name](g)
    given = (other, x) if first else (x, other)
    model = Two(int(first)).eval()
    fast = rt.compile(model, given, strict=True)
    assert "one call on cpu" in fast.explain(measure=False)
    with torch.no_grad():
        want = model(*given)
    out = torch.full((3, 5), torch.nan)
    fast.run(*given, out=out)
    loaded: Any = rt.load(rt.save(fast, tmp_path / "m.rta"))
    for got in (fast(*given), out, loaded(*given)):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    wrong = torch.zeros(*other.shape, 2, dtype=other.dtype)
    with pytest.raises(rt.ShapeError):
        fast(*((wrong, x) if first else (x, wrong)))


def test_several_and_a_quantized_layer() -> None:
    g = torch.Generator().manual_seed(6)
    given = (torch.randn(3, 2, generator=g), torch.randn(3, 7, generator=g), torch.ones(3, dtype=torch.int64))
    model = Two(1).eval()
    for scheme in ("float32", "w8a8"):
        fast = rt.compile(model, given, scheme, strict=True)
        assert "one call on cpu" in fast.explain(measure=False)
        with torch.no_grad():
            torch.testing.assert_close(fast(*given), model(*given), rtol=0.05, atol=0.05)
