"""Counting what a graph on a GPU leaves to PyTorch, without a card."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton")

from bench.zoo import __main__ as command
from bench.zoo import captured, gpu
from bench.zoo.entry import Entry
from rtaccel.core.errors import UnsupportedProblem


class Mixed(nn.Module):
    """A large product, which is cuBLAS's, a small one, and a transform."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Linear(1024, 1024), nn.Linear(1024, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.small(torch.relu(self.large(x)))
        return torch.fft.rfft(y.transpose(1, 2)).abs()


class Taken(nn.Module):
    """Whole numbers that are selected by computed indices, which no kernel in Triton takes."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return torch.gather(index * 2, 1, index) * x


def counted(model: nn.Module, *inputs: Tensor) -> gpu.Count:
    return gpu.count(Entry("made", "torch", lambda: (model.eval(), inputs)))


def test_a_large_product_is_counted_apart() -> None:
    found = counted(Mixed(), torch.randn(1, 256, 1024))
    assert (found.library, found.calls, found.torch) == (
        {"addmm": 1},
        0,
        {"relu": 1},
    )  # its activation is a call of its own
    assert found.triton == found.stages - 1 >= 3
    assert "cuBLAS" in found.reasons["linear"]


def test_a_stage_that_looks_at_its_indices_has_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no kernel in Triton takes it, that is."""
    known = captured.impls
    monkeypatch.setattr(
        captured, "impls", lambda backend, op: () if op == "take" and backend == "triton" else known(backend, op)
    )
    with pytest.raises(UnsupportedProblem, match=r"PyTorch's \(take\) that looks at numbers"):
        counted(Taken(), torch.randn(1, 5), torch.randint(0, 5, (1, 5)))


def test_a_stage_of_several_launches_is_counted_by_them() -> None:
    """A transform of a long line is two; the plan has one stage."""

    class Transform(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x).abs()

    short, long = counted(Transform(), torch.randn(1, 64)), counted(Transform(), torch.randn(1, 8192))
    assert short.stages == long.stages and long.triton == short.triton + 1


def test_every_call_of_pytorch_is_seen() -> None:
    """A plan whose stage computes by PyTorch's own calls: each kernel is counted, and views are not."""
    from bench.zoo.captured import Nodes, _Watched

    nodes = Nodes()
    x = torch.empty(4, 6, device="meta")
    with _Watched(nodes):
        y = torch.empty(6, 4, device="meta").copy_(x.t())  # in another order: a kernel
        y.clone()
        (x @ y).relu_().view(16).add(1)
    assert (nodes.copies, nodes.library, nodes.torch) == (1, {"mm": 1}, {"copy_": 1, "relu_": 1, "add": 1})


def test_what_looks_at_a_number_ends_the_capture() -> None:
    from bench.zoo.captured import PlayedCard

    x = torch.empty(3, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        PlayedCard().capture(lambda: (x * float(x.sum()),))


def test_the_page_adds_up() -> None:
    plain = {"library": {}, "torch": {}, "copies": 0, "calls": 0, "reasons": {}}
    networks = {
        "whole": {**plain, "stages": 5, "triton": 6},
        "large": {**plain, "stages": 5, "triton": 4, "library": {"addmm": 2}, "reasons": {"linear": "big"}},
        "partly": {
            **plain, "stages": 9, "triton": 7, "torch": {"gather": 2, "mul": 1}, "copies": 1, "calls": 1,
            "reasons": {"take": "why"},
        },
        "gone": {"failed": "rtaccel.core.errors.UnsupportedProblem: compile: got Net; expected another"},
    }  # fmt: skip
    text = gpu.page({"networks": networks})
    assert "3 networks" in text and "1 networks have no kernel of PyTorch's" in text
    assert "have 17 launches of Triton's kernels for 19 stages, and 1 nodes" in text
    assert "PyTorch\nlaunches 3 kernels in them, 2 more are" in text and "and 1 calls fall back" in text
    assert "| partly | 9 | 7 | 1 | - | 2 gather, 1 mul | 1 |" in text
    assert "| take | 1 | why |" in text and "| gone | UnsupportedProblem: compile: got Net |" in text
    assert "Stages in PyTorch" not in gpu.page({"networks": {"whole": networks["whole"]}})
    assert "In W8A8" not in text
    both = gpu.page({"networks": {"whole": networks["whole"]}, "networks_w8a8": networks})
    said = both[both.index("## In W8A8") :]
    assert "3 networks, 19 stages, 17 launches" in said and "1 networks have no" in said
    assert "| partly |" in said and "| whole |" not in said and "| gone |" in said


def test_int8_layers_are_counted_with_their_quantization() -> None:
    """A large product is cuBLAS's, with what makes int8 of x before it; a small one, and a transposed convolution, are ours."""
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 8)).eval()
    found = gpu.count(Entry("made", "torch", lambda: (model, (torch.randn(1, 256, 1024),))), gpu.INT8)
    assert (found.library, found.torch, found.calls) == ({"_int_mm": 1}, {}, 0)
    up = nn.Sequential(nn.ConvTranspose1d(16, 16, 4, 2), nn.Conv1d(16, 4, 3)).eval()
    found = gpu.count(Entry("made", "torch", lambda: (up, (torch.randn(1, 16, 40),))), gpu.INT8)
    assert (found.library, found.torch, found.calls, found.reasons) == ({}, {}, 0, {})


def test_another_file_leaves_the_page_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The page of the repository is of the file of the repository; of another file one is written where that is asked for."""
    page, own, asked = tmp_path / "zoo-gpu.md", tmp_path / "own.json", tmp_path / "asked.md"
    monkeypatch.setattr(command, "GPU_PAGE", page)
    monkeypatch.setattr(command, "GPU", tmp_path / "zoo-gpu.json")
    monkeypatch.setattr(gpu, "count_all", lambda chosen, record, write, limit, scheme: write(record))
    monkeypatch.setattr(gpu, "page", lambda record: "written")
    command.main(["gpu", "--out", str(own)])
    assert own.exists() and not page.exists()
    command.main(["gpu", "--out", str(own), "--page", str(asked)])
    assert asked.read_text() == "written" and not page.exists()
    command.main(["gpu"])
    assert page.read_text() == "written"
