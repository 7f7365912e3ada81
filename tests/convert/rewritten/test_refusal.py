"""A model whose shapes depend on numbers in ways that nothing keeps: the report names the line and what to compile instead."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.guards.refusal import refusal


class Detector(nn.Module):
    """Boxes over a threshold, as many as there are, and a way that depends on how many."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.head(self.backbone(x))
        found = scores[scores[:, 0] > 0]
        if found.shape[0] * 4 > 40:
            found = found[:10]
        return found.sum(0)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Detector()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


@pytest.mark.parametrize(("model", "parts"), [(Detector, "backbone and head"), (Wrapped, "model.backbone and head")])
def test_the_line_and_the_parts_are_named(model: type[nn.Module], parts: str) -> None:
    made = model().eval()
    with pytest.raises(Exception, match="data-dependent") as caught:
        torch.export.export(made, (torch.randn(30, 8),), strict=False)
    said = str(refusal(made, caught.value))
    assert "test_refusal.py" in said and "found.shape[0] * 4 > 40" in said
    assert f"Compile the parts before it by themselves, such as model.{parts}" in said


def test_another_cause_has_no_such_advice() -> None:
    said = str(refusal(Detector(), ValueError("no such option\nand more")))
    assert "It said: no such option" in said and "Compile the parts" not in said and "and more" not in said
