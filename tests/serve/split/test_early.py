"""Early exits of a cut: the answers of the whole with its tests, the share foretold, nothing sent for rows that left."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.serve.remote import Endpoint, Remote
from rtaccel.serve.remote.udp import UdpClient, UdpServer
from rtaccel.serve.split.early import EarlyEdge


class Branches(nn.Module):
    """A trunk with a head after each layer. The heads are computed last, as they often are written."""

    def __init__(self, *widths: int, classes: int = 4, gain: float = 6.0) -> None:
        super().__init__()
        self.trunk = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.heads = nn.ModuleList(nn.Linear(b, classes) for b in widths[1:])
        self.gain = gain

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = []
        for layer in self.trunk:
            x = torch.relu(layer(x))
            features.append(x)
        return tuple(head(h) * self.gain for head, h in zip(self.heads, features))


def expected(outputs: Any, exits: list[rt.Exit]) -> tuple[torch.Tensor, list[int]]:
    """Row by row, in plain torch: the first answer whose test passes."""
    rows, left = [], []
    for row in zip(*outputs):
        at = next((i for i, e in enumerate(exits) if bool(e.passes(e.scores(row[i][None])))), len(exits))
        rows.append(row[at])
        left.append(at)
    return torch.stack(rows), left


def left_of(cut: rt.Cut) -> list[int]:
    left = cut.last_exit
    return [left] if isinstance(left, int) else [int(i) for i in left]  # type: ignore[union-attr]


EXITS = {
    "confidence": [0.7, 0.7],
    "tests of every side": [rt.Exit("entropy", below=0.8), rt.Exit("margin", above=0.5)],
    "in Python": [rt.Exit(lambda y: float(y.max() - y.mean()), above=1.0), rt.Exit("energy", above=2.0)],
    "never": [rt.Exit("confidence", above=float("inf"))] * 2,
    "always": [rt.Exit("value", above=float("-inf"))] * 2,
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("exits", EXITS.values(), ids=EXITS.keys())
@pytest.mark.parametrize("scheme", ["float32", "w8a8 static", "w8a8"])
def test_every_cut_answers_as_the_whole_with_its_tests(
    scheme: str, exits: Any, batch: int, profile: rt.MachineProfile
) -> None:
    torch.manual_seed(batch)
    model, data = Branches(20, 16, 12, 8).eval(), torch.randn(60, 20)
    fast = rt.compile(model, data[:batch], scheme.split()[0], calibration=[data] if "static" in scheme else None)
    tests = [e if isinstance(e, rt.Exit) else rt.Exit("confidence", above=e) for e in exits]
    cut = rt.split(fast, data[:batch], rt.Link(rtt_us=50), profile.scaled(10), profile, wires=("float32",), exit=exits,
                   calibration=[data], budget=rt.Budget(max_error=1e9))  # fmt: skip
    calls = data.split(batch)
    for row in cut.front:
        other = cut.other(row)
        here = 0
        for x in calls:
            want, left = expected(fast(x), tests)
            got = other(x)
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
            assert left_of(other) == left
            on_edge = max(left, default=0) < len(cut.exits.at_edge(row.at))
            sent, _ = other.before((x,))
            assert (sent is None) == (on_edge or other.cloud is None)
            assert isinstance(other.edge, EarlyEdge) or not on_edge
            here += on_edge
        assert row.exits == pytest.approx(here / len(calls))
        assert row.sent_bytes == pytest.approx(row.wire_bytes * (1 - here / len(calls)))
    if exits == EXITS["never"]:
        assert all(row.exits == 0 for row in cut.front)
    if exits == EXITS["always"]:
        assert {row.exits for row in cut.front} == {0.0, 1.0}


def test_heads_are_asked_as_early_as_may_be(profile: rt.MachineProfile) -> None:
    """The order of the module has the heads last; a cut behind the first of them has one exit on the edge."""
    data = torch.randn(50, 20)
    cut = rt.split(Branches(20, 16, 12, 8).eval(), data[:1], rt.Link(rtt_us=1), profile, profile, exit=[0.6, 0.6],
                   calibration=[data], budget=rt.Budget(max_error=1e9))  # fmt: skip
    stages = len({row.at for row in cut.front}) - 1
    assert cut.exits.made == (2, 4) and stages == 6
    edge = cut.other(next(r for r in cut.front if r.at == stages)).edge
    assert [len(part._program.stages) for part in edge.parts] == [2, 2, 2]


def test_predictions_are_means_over_the_calls(profile: rt.MachineProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtaccel.serve.split.probes.stages_of_a_call_us", lambda fast, args: [10.0, 1.0, 20.0, 3.0])
    monkeypatch.setattr("rtaccel.serve.split.split.asking_us", lambda fast, exits, args: [0.5])
    monkeypatch.setattr("rtaccel.serve.split.split.part_us", lambda edge, args, asking: 0.25)
    torch.manual_seed(0)
    model, data = Branches(20, 16, 12).eval(), torch.randn(200, 20)
    link = rt.Link(rtt_us=50, mb_s=2, loss=0.1)
    cut = rt.split(
        model, data[:1], link, profile.scaled(100), profile, wires=("float32",), exit=[0.7], calibration=[data]
    )
    share = next(r.exits for r in cut.front if r.exits)
    assert 0.1 < share < 0.9
    call = profile.call_us
    for row in cut.front:
        whole = {
            0: 0.0,
            1: 100 * (10 + call),
            2: 100 * (11.75 + call),
            3: 100 * (32 + 2 * call),
            4: 100 * (35 + 2 * call),
        }
        ended = 100 * (11.75 + call) if row.at >= 2 else 0.0
        part = share if row.at >= 2 else 0.0
        assert row.edge_us == pytest.approx(part * ended + (1 - part) * whole[row.at])
        if row.at == 4:
            assert row.us == pytest.approx(row.edge_us)
            assert row.p99_us == pytest.approx(whole[4])
            continue
        sent = whole[row.at] + row.link_us + row.cloud_us
        lost = link.expected_us(sent, row.wire_bytes, row.answer_bytes)
        assert row.us == pytest.approx(part * ended + (1 - part) * lost)
        # 0.81 of those that are sent need one attempt, 0.19 ** n more than n.
        late = 0.01 / (1 - part)
        attempts = next(n for n in range(1, 9) if 0.19**n <= late)
        assert row.p99_us == pytest.approx(sent * (1 + 2 * (attempts - 1)))
    assert cut.proof.exits == cut.best.exits
    assert cut.proof.sent_bytes == pytest.approx(cut.best.sent_bytes)
    assert f"{share:.0%}" in str(cut)


def test_what_left_is_not_sent_and_the_rest_comes_back(profile: rt.MachineProfile) -> None:
    torch.manual_seed(1)
    model, data = Branches(30, 8, 64, classes=3).eval(), torch.randn(100, 30)
    cut = rt.split(model, data[:1], rt.Link(rtt_us=1e-3), profile.scaled(10), profile.scaled(1e-6), wires=("float32",),
                   exit=[0.8], calibration=[data], private=True)  # fmt: skip
    cut = cut.other(next(r for r in cut.front if r.at == 2))
    endpoint = Endpoint.of(cut)
    with UdpServer(endpoint) as server, Remote.of(cut, UdpClient(server.address)) as remote:
        early = 0
        for x in data.split(1):
            y = remote(x, timeout_s=60)
            early += left_of(cut) == [0]
            want, left = expected(cut._whole(x), [rt.Exit("confidence", above=0.8)])
            assert torch.equal(y, want) and left_of(cut) == left
        assert 10 < early < 90
        stats = remote.stats()
        assert (stats.here, stats.sent, stats.answered) == (early, 100 - early, 100 - early)
        assert early == round(100 * next(r.exits for r in cut.front if r.at == 2))
    assert endpoint.stats().answered == 100 - early


@pytest.mark.parametrize("wire", ["float32", "int8"])
def test_not_a_number_never_leaves(wire: str, profile: rt.MachineProfile) -> None:
    """Also behind a part whose values are int8 and hold no NaN."""
    torch.manual_seed(3)
    model, data = Branches(20, 16, 12, 8).eval(), torch.randn(60, 20)
    always = [rt.Exit("confidence", above=0.0)] * 2
    for scheme in ("float32", "w8a8"):
        fast = rt.compile(model, data[:1], scheme, calibration=[data])
        cut = rt.split(fast, data[:1], rt.Link(rtt_us=1), profile, profile, exit=always, calibration=[data], wires=(wire,),
                       budget=rt.Budget(max_error=1e9))  # fmt: skip
        for row in cut.front:
            other, x = cut.other(row), data[:4].clone()
            x[1, 3] = float("nan")
            y = other(x)
            assert torch.isnan(y[1]).all() and torch.isfinite(y[[0, 2, 3]]).all()
            assert left_of(other) == [0, 2, 0, 0]


@pytest.mark.parametrize("edge", [1, 1e-6, 1e6])
def test_two_inputs_one_of_integers(profile: rt.MachineProfile, edge: float) -> None:
    """Whichever cut is the best, though calibration data come in another batch than calls do: sums of 40 rows may have another
    order in a half."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.a, self.b = nn.Embedding(11, 6), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, words: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = torch.cat([self.table(words).mean(1), x], 1)
            return self.a(h) * 8, self.b(h.tanh())

    def draw(rows: int) -> tuple[Any, ...]:
        return torch.randint(0, 11, (rows, 4)), torch.randn(rows, 2)

    cut = rt.split(Words().eval(), draw(2), rt.Link(rtt_us=1), profile.scaled(edge), profile, wires=("float32",), exit=[0.7],
                   calibration=[draw(40)], budget=rt.Budget(max_error=1e9))  # fmt: skip
    for row in cut.front:
        x = draw(2)
        want, _ = expected(cut._whole(*x), [rt.Exit("confidence", above=0.7)])
        torch.testing.assert_close(cut.other(row)(*x), want, rtol=2e-2, atol=2e-2 * float(want.abs().max()))


def test_what_is_refused(profile: rt.MachineProfile) -> None:
    data, link = torch.randn(10, 20), rt.Link(rtt_us=1)
    sides: dict[str, Any] = {"edge": profile, "remote": profile}
    branches = Branches(20, 16, 12).eval()
    with pytest.raises(FormatError, match="calibration"):
        rt.split(branches, data[:1], link, exit=[0.5], **sides)
    with pytest.raises(FormatError, match="calibration"):
        rt.split(branches, data[:4], link, exit=[0.5], calibration=[data[:3]], **sides)
    for exits in ([0.5, 0.5], [], ["sure"], [np.nan]):
        with pytest.raises(FormatError):
            rt.split(branches, data[:1], link, exit=exits, calibration=[data], **sides)
    with pytest.raises(FormatError):
        rt.split(branches, data[:1], link, exit=[0.5], test="guess", calibration=[data], **sides)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(20, 3), nn.Linear(20, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.a(x), self.b(x)

    with pytest.raises(ShapeError, match="one shape"):
        rt.split(Odd().eval(), data[:1], link, exit=[0.5], calibration=[data], **sides)
    cut = rt.split(branches, data[:1], link, exit=[0.5], calibration=[data], **sides)
    for row in cut.front:
        other = cut.other(row)
        for bad in (torch.randn(1, 21), torch.randn(20), torch.randn(1, 20).double()):
            with pytest.raises(ShapeError):
                other(bad)
