"""Cuts: halves give the whole's bits, predictions add up, limits hold, and the best is the best of all."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import BudgetExceeded, FormatError, ShapeError, UnsupportedProblem
from rtaccel.deploy import container
from rtaccel.serve.frames import Writer, wire_of
from rtaccel.serve.split import passage
from rtaccel.serve.split.cut import error_of
from rtaccel.serve.split.halves import crossings, halved, whole_group


def waist(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).eval()


class TwoHeads(nn.Module):
    """A residual over a convolution, two outputs, one of them early."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.early, self.late = nn.Linear(8, 2), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.a(x).relu()
        early = self.early(y.mean((2, 3)))
        y = y + self.b(y)
        return self.late(y.mean((2, 3))), early


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.gru, self.head = nn.Embedding(11, 6), nn.GRU(6, 7, batch_first=True), nn.Linear(9, 3)

    def forward(self, words: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.cat([self.gru(self.table(words))[0][:, -1], x], 1))
        return found


def models() -> list[tuple[str, nn.Module, tuple[torch.Tensor, ...], str]]:
    mlp = waist(20, 9, 3, 11, 20)
    return [
        ("mlp", mlp, (torch.randn(2, 20),), "float32"),
        ("mlp static int8", mlp, (torch.randn(2, 20),), "w8a8 static"),
        ("mlp dynamic int8", mlp, (torch.randn(2, 20),), "w8a8"),
        ("two heads", TwoHeads().eval(), (torch.randn(2, 3, 6, 5),), "float32"),
        ("two inputs", TwoInputs().eval(), (torch.randint(0, 11, (2, 4)), torch.randn(2, 2)), "float32"),
        (
            "time steps",
            nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2)).eval(),
            (torch.randn(3, 4, 5),),
            "float32",
        ),
    ]


def compiled(model: nn.Module, x: tuple[torch.Tensor, ...], scheme: str) -> Any:
    batches = [tuple(torch.randn(8, *t.shape[1:]) for t in x)] if scheme.endswith("static") else None
    return rt.compile(model, x, scheme.split()[0], calibration=batches)


def same(a: torch.Tensor, b: torch.Tensor, scheme: str) -> None:
    """int8 to the bit. In float32 a cut beside an image of few channels may leave it as rows where the whole has planes: other
    kernels, which add products in another order."""
    if scheme == "float32":
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(a, b)


@pytest.mark.parametrize(("model", "x", "scheme"), [m[1:] for m in models()], ids=[m[0] for m in models()])
def test_halves_of_every_cut_give_what_the_whole_gives(model: nn.Module, x: Any, scheme: str) -> None:
    fast = compiled(model, x, scheme)
    whole = fast(*x)
    cuts = crossings(whole_group("test", fast))
    assert len(cuts) == len(fast._program.stages) + 1
    for crossing in cuts:
        halves = halved(fast, crossing)
        made = halves.edge(*x) if halves.edge else ()
        answer = halves.cloud(*halves.crossing_values(x, made)) if halves.cloud else ()
        found = halves.result(made, answer)
        for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (found, whole))):
            same(a, b, scheme)


def test_several_tensors_cross() -> None:
    fast = rt.compile(TwoHeads().eval(), torch.randn(1, 3, 6, 5))
    assert max(len(c.ports) for c in crossings(whole_group("test", fast))) >= 2


@pytest.mark.parametrize("wire", ["float32", "int8", "int4"])
def test_bytes_are_those_of_the_frame(wire: str) -> None:
    fast = rt.compile(TwoInputs().eval(), (torch.zeros(3, 4, dtype=torch.int64), torch.randn(3, 2)))
    for crossing in crossings(whole_group("test", fast))[:-1]:
        arrays = [np.zeros((3, *p.trailing), p.value.dtype) for p in crossing.ports]
        assert passage.frame_bytes(crossing.ports, (3,), wire) == Writer(arrays, bytes(16), wire_of(wire)).bytes


def test_slow_links_send_little_and_fast_clouds_compute(profile: rt.MachineProfile) -> None:
    model, x = waist(640, 128, 4, 128, 640), torch.randn(1, 640)

    def best(rtt_us: float, mb_s: float, edge: float, remote: float, **said: Any) -> Any:
        link = rt.Link(rtt_us=rtt_us, mb_s=mb_s)
        return rt.split(model, (x,), link, profile.scaled(edge), profile.scaled(remote), wires=("float32",), **said)

    assert best(1e6, 1, 1, 0.01).best.wire_bytes == 0
    assert best(1, 1e5, 1e4, 0.001).best.at == 0
    # Seconds for a wide stage on the edge, and for 300 bytes: the waist is where the fewest bytes cross.
    model = waist(640, 128, 4, 128, 640, 1)
    narrow = best(1, 1e-4, 5e6, 1e-6, private=True)
    assert narrow.at == 2


def test_frames_that_the_link_does_not_carry(profile: rt.MachineProfile) -> None:
    link = rt.Link(rtt_us=1e-3, most_bytes=300)
    cut = rt.split(waist(100, 20, 4, 20), torch.randn(1, 100), link, profile.scaled(1e7), profile, wires=("float32",))
    assert cut.at == 1
    assert [r.at for r in cut.front if "a frame of 504 bytes over 300" in r.why_not] == [0]
    assert cut.other(next(r for r in cut.front if r.at == 0)).at == 0


def test_private_cuts_send_nothing_raw(profile: rt.MachineProfile) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 3), nn.Linear(9, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.last(torch.cat([self.first(x.tanh() * 2), x.abs()], 1))
            return y

    link = rt.Link(rtt_us=1e-3)
    cut = rt.split(Scaled().eval(), torch.randn(1, 6), link, profile.scaled(1e6), profile, private=True)
    assert all(("sends an input" in r.why_not) == r.raw for r in cut.front)
    assert cut.best.at == len({r.at for r in cut.front}) - 1  # the input is needed up to the last stage
    static = rt.split(waist(8, 4, 8), torch.randn(1, 8), link, profile.scaled(1e6), profile, private=True,
                      scheme="w8a8", calibration=[torch.randn(32, 8)])  # fmt: skip
    assert static.at == 2  # behind the first layer, not behind the conversion to int8
    open_ = rt.split(waist(8, 4, 8), torch.randn(1, 8), link, profile.scaled(1e6), profile)
    assert open_.at == 0


def test_errors_are_measured_and_limited(profile: rt.MachineProfile) -> None:
    model, link = waist(30, 16, 30), rt.Link(rtt_us=1, mb_s=0.01)
    said: dict[str, Any] = {"edge": profile.scaled(1e5), "remote": profile, "calibration": [torch.randn(16, 30)]}
    cut = rt.split(
        model, torch.randn(4, 30), link, wires=("float32", "int8", "int4"), budget=rt.Budget(max_error=1), **said
    )
    assert (cut.best.scheme, cut.proof.equal) == ("int4", False)
    assert cut.proof.error == cut.best.error
    x = torch.randn(64, 30)
    assert error_of([(cut(x), model(x))]) < 3 * cut.best.error
    by = {r.scheme: r.error for r in cut.front if r.at == 1}
    assert by["float32"] < 1e-6 < by["int8"] < by["int4"] < 0.3
    tight = rt.split(
        model, torch.randn(4, 30), link, wires=("float32", "int8", "int4"), budget=rt.Budget(max_error=1e-5), **said
    )
    assert tight.best.scheme in ("float32", "none")
    assert tight.proof.equal
    with pytest.raises(BudgetExceeded, match="error"):
        rt.split(model, torch.randn(4, 30), link, wires=("int4",), budget=rt.Budget(max_error=1e-9), **said)
    with pytest.raises(BudgetExceeded, match="us"):
        rt.split(model, torch.randn(4, 30), link, budget=rt.Budget(p50_us=0.001), **said)


def test_a_metric_and_bytes_on_the_edge(profile: rt.MachineProfile) -> None:
    model, link = waist(30, 16, 30), rt.Link(rtt_us=1, mb_s=0.01)
    x = torch.randn(64, 30)
    asked = []

    def metric(call: Any) -> float:
        asked.append(call)
        return -float((call(x) - model(x).detach()).abs().max())

    sides = profile.scaled(1e5), profile
    cut = rt.split(
        model, x[:1], link, *sides, wires=("float32", "int4"), metric=metric, budget=rt.Budget(min_metric=-1e-4)
    )
    assert cut.best.scheme in ("float32", "none")
    assert cut.best.metric is not None and cut.best.metric >= -1e-4
    assert len(asked) == sum(r.metric is not None for r in cut.front)
    small = rt.split(model, x[:1], rt.Link(rtt_us=1e9), *sides, budget=rt.Budget(size_bytes=1))
    assert small.at == 0


def test_not_a_number_comes_through(profile: rt.MachineProfile) -> None:
    model, x = waist(12, 6, 3, 12), torch.randn(4, 12)
    x[1, 3], x[2, 0] = float("nan"), float("inf")
    for scheme, wires in (("float32", ("float32",)), ("float32", ("int8",)), ("w8a8", ("float32",))):
        cut = rt.split(model, x[:1], rt.Link(rtt_us=1e-3), profile.scaled(1e7), profile, private=True, scheme=scheme,
                       calibration=[torch.randn(64, 12)], wires=wires, budget=rt.Budget(max_error=1))  # fmt: skip
        assert 0 < cut.at < len({r.at for r in cut.front}) - 1
        y = cut(x)
        assert torch.isfinite(y[[0, 3]]).all()
        assert torch.isnan(y[1]).all()
        if scheme == "w8a8":
            assert torch.isnan(y[2]).all()


def test_any_batch_and_what_does_not_fit(profile: rt.MachineProfile) -> None:
    for private in (True, False):
        cut = rt.split(waist(12, 6, 12), torch.randn(1, 12), rt.Link(rtt_us=1e-3), profile.scaled(1e7), profile,
                       private=private)  # fmt: skip
        for batch in (1, 5, 64):
            x = torch.randn(batch, 12)
            assert torch.equal(cut(x), cut._whole(x)) or cut.best.scheme == "int8"
        for bad in (torch.randn(1, 13), torch.randn(1, 12).double(), torch.randn(12), torch.randn(1, 1, 12)):
            with pytest.raises(ShapeError):
                cut(bad)
        with pytest.raises(ShapeError):
            cut("no tensor")


def test_the_cloud_as_a_file(profile: rt.MachineProfile, tmp_path: Path) -> None:
    cut = rt.split(
        waist(12, 6, 12), torch.randn(1, 12), rt.Link(rtt_us=1e-3), profile.scaled(1e7), profile, private=True
    )
    path = cut.save_cloud(tmp_path / "cloud.rta")
    assert container.written_digest("test", path.read_bytes()) == cut.digest
    loaded = rt.load(path)
    h = cut.edge(torch.randn(1, 12))[0]
    found = loaded(h.numpy())
    assert np.array_equal(found[0] if isinstance(found, tuple) else found, cut.cloud(h)[0].numpy())
    known = json.loads(cut.to_json())
    assert known["best"]["at"] == cut.at and len(known["front"]) == len(cut.front)
    assert str(cut).count("\n") == len(cut.front) + 1
    assert cut.sent == [((1, 6), "float32")] and cut.answered == [((1, 12), "float32")]
    local = rt.split(waist(12, 6, 12), torch.randn(1, 12), rt.Link(rtt_us=1e9), profile, profile)
    with pytest.raises(UnsupportedProblem):
        local.save_cloud(tmp_path / "none.rta")


def test_what_is_refused(profile: rt.MachineProfile) -> None:
    model, x, link = waist(4, 3), torch.randn(1, 4), rt.Link(rtt_us=1)
    for said in (
        {"link": 5}, {"edge": "there"}, {"remote": None}, {"budget": 5}, {"budget": rt.Budget(joules=1)},
        {"budget": rt.Budget(min_metric=1)}, {"metric": 5}, {"wires": "int8"}, {"wires": ()}, {"wires": ("int3",)},
        {"metric": lambda m: "good"},
    ):  # fmt: skip
        with pytest.raises(FormatError):
            rt.split(model, x, **{"link": link, "edge": profile, "remote": profile, **said})

    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x).real

    with pytest.warns(UserWarning, match="fall"), pytest.raises(UnsupportedProblem):
        rt.split(Odd().eval(), torch.randn(2, 3, 3), link, profile, profile)
    live = rt.stream(nn.GRU(3, 4, batch_first=True).eval(), torch.randn(1, 3))
    with pytest.raises(UnsupportedProblem, match="keeps states"):
        rt.split(live, torch.randn(1, 3), link, profile, profile)
