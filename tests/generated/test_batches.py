"""Random models at every batch: the original's result, or an error that says why not. Never a silent difference."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import rtaccel as rt
from tests.support.compare import check_batches, outcome, same_results
from tests.support.generators.count import case, examples
from tests.support.generators.failures import Wrong, checked
from tests.support.generators.models import FAMILIES, models

BATCHES = (*range(18), 33, 100)

SHARES = {"rows": 16, "windows": 14, "images": 12, "tables": 8, "batch": 40, "torch": 16, "changes": 6, "arguments": 10}
"""Examples of each family in a run of 20,000 cases."""

COMMON: dict[str, Any] = {
    "deadline": None,
    "derandomize": "CI"
    in os.environ,  # in CI always the same models: what a new one finds is not for an unrelated change
    "print_blob": True,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_batch(family: str) -> None:
    @settings(max_examples=examples(SHARES[family]), **COMMON)
    @given(st.sampled_from((2, 7, 1)).flatmap(lambda most: models(family, most)))
    def run(d: Any) -> None:
        checked("batches", {"model": d, "scheme": "float32"}, check)

    run()


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8", "bfloat16"])
def test_every_batch_in_a_scheme(scheme: str) -> None:
    @settings(max_examples=examples(4), **COMMON)
    @given(st.sampled_from(("rows", "windows", "images", "batch")).flatmap(models))
    def run(d: Any) -> None:
        checked("batches", {"model": d, "scheme": scheme}, check)

    run()


def check(found: Any) -> None:
    check_batches(found["model"], found["scheme"], BATCHES)


class Remembering(nn.Module):
    """State in plain attributes, which torch.export does not see."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(width, width), kind
        self.count, self.h, self.seen, self.table = 0, torch.zeros(1, width), [], {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        if self.kind == "counter":
            self.count += 1
            return y + self.count
        if self.kind == "tensor":
            self.h = torch.tanh(self.h + y.mean(0, keepdim=True))
            return y + self.h
        if self.kind == "list":
            self.seen.append(y[:1])
            return y + sum(self.seen[-3:])
        if self.kind == "dict":
            y = y + self.table.get("last", 0.0)
            self.table["last"] = y[:1]
            return y
        if self.kind == "flag":
            self.training_done = getattr(self, "training_done", 0) + 1
            return y * (2.0 if self.training_done > 1 else 1.0)
        self.h.add_(1.0)  # a tensor that is no buffer, in place
        return y + self.h


REMEMBERS = ("counter", "tensor", "list", "dict", "flag", "in place")


@pytest.mark.parametrize("kind", REMEMBERS)
@settings(max_examples=examples(3), **COMMON)
@given(width=st.integers(1, 9), rows=st.sampled_from((1, 3)), backend=st.sampled_from((None, "portable")))
def test_state_in_attributes(kind: str, width: int, rows: int, backend: str | None) -> None:
    checked("attributes", {"kind": kind, "width": width, "rows": rows, "backend": backend}, check_attributes)


def check_attributes(found: Any) -> None:
    """Refused by a typed error, or each of several calls gives what the original gives."""
    torch.manual_seed(3)
    kind, width, rows = found["kind"], found["width"], found["rows"]
    model = Remembering(kind, width).eval()
    torch.manual_seed(3)
    other = Remembering(kind, width).eval()
    fast, error = outcome(lambda: rt.compile(other, (torch.randn(rows, width),), backend=found["backend"]))
    case("attributes")
    if error is not None:
        if not isinstance(error, rt.RtaccelError):
            raise Wrong(f"compile raises {type(error).__name__}", f"{kind}: {error}") from error
        return
    for turn in range(4):
        x = torch.randn(rows, width)
        case("attributes")
        got, want = outcome(lambda x=x: fast(x))[0], outcome(lambda x=x: model(x))[0]
        same_results(got, want, lambda: [1e-4], f"state in a {kind}, call {turn}")
