"""Every function that the table names runs to its end, on a card whose names are played on the CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from bench.device import table
from bench.device.planned.layers import SPARSE_PATTERNS
from bench.device.row import resolve
from bench.device.rows import graphs, null, swaps, timing
from bench.device.rows.graphs import given
from rtaccel.core.errors import BackendUnavailable, FormatError
from rtaccel.runtime.gpu import persistent_device
from tests.bench.device import played_card

GRAPHS, SPARSE = "bench.device.rows.graphs", "bench.device.rows.sparse"
SWAPS = "bench.device.rows.swaps"
STREAMS, NULL = "bench.device.rows.streams", "bench.device.rows.null"
CALL = {"call_p50_us"}
HOST, CARD, COLD = {"p50_us", "p99_us", "p999_us"}, {"device_us"}, {"device_us", "copies", "copies_mib"}
SMALL: list[tuple[str, dict[str, Any], set[str]]] = [
    (f"{NULL}:answers", {}, {"passed"}),
    (f"{GRAPHS}:graph_row", {"kind": "network", "name": "mlp 64-64-64-8", "scheme": "w8a8", "seconds": 0.01}, HOST | CARD),
    (f"{GRAPHS}:graph_row", {"kind": "linear", "name": "2x64x8", "scheme": "w4a16 g32", "seconds": 0.01}, HOST | CARD),
    (f"{GRAPHS}:graph_row", {"kind": "window", "name": "gru 64-128", "scheme": "w8a8", "seconds": 0.01}, HOST | CARD),
    (f"{GRAPHS}:graph_row", {"kind": "window", "name": "gru 64-128", "scheme": "float32", "seconds": 0.01}, HOST | CARD),
    *[
        (f"{GRAPHS}:graph_row", {"kind": "operation", "name": name, "scheme": "float32", "seconds": 0.01}, HOST | CARD)
        for name in table.OPERATIONS
    ],
    (f"{GRAPHS}:peer_row", {"kind": "operation", "name": "a system of 16", "way": table.FLOAT32, "seconds": 0.01}, HOST | CARD),
    (f"{GRAPHS}:cold_row", {"name": "2x256x8", "scheme": "w4a16 g128"}, COLD),
    (f"{GRAPHS}:torch_linear_row", {"name": "2x64x8", "cold": True}, COLD),
    (f"{GRAPHS}:torch_linear_row", {"name": "2x64x8", "cold": False}, COLD),
    (f"{GRAPHS}:two_streams", {"name": "mlp 64-64-64-8"}, {"passed"}),
    (f"{STREAMS}:step_row", {"name": "gru 64-128", "scheme": "w8a8", "seconds": 0.01}, HOST | {"kernels"}),
    (f"{STREAMS}:many_row", {"streams": 3, "units": 8, "scheme": "w8a8", "seconds": 0.01}, HOST | {"kernels"}),
    *[
        (f"{SWAPS}:network_row", {"name": "mlp 64-64-64-8", "scheme": "w8a8", "mode": mode, "seconds": 0.02}, HOST | CALL)
        for mode in ("graph", "persistent")
    ],
    (f"{SWAPS}:stream_row", {"name": "gru 64-128", "scheme": "w8a8", "seconds": 0.02}, HOST | CALL),
    (f"{GRAPHS}:graph_row", {"kind": "tokens", "name": table.TOKENS[0], "scheme": "w8a8", "seconds": 0.01}, HOST | CARD),
    *[
        (f"{STREAMS}:torch_step_row", {"name": name, "way": way, "seconds": 0.01}, HOST | CARD)
        for name in ("gru 64-128", "TCN 3x128 k8", "TCN 9x128 k3") for way in ("torch eager fp16", "torch CUDA graph fp16")
    ],
    *[
        (f"{GRAPHS}:peer_row", {"kind": "network", "name": "mlp 64-64-64-8", "way": way, "seconds": 0.01}, HOST | CARD)
        for way in ("torch eager fp16", "torch CUDA graph fp16")
    ],
    *[
        (f"{SPARSE}:ours_row", {"m": 2, "n": 128, "pattern": pattern, "scheme": "w8a8", "forced": forced}, COLD)
        for pattern in SPARSE_PATTERNS[::2] for forced in ("", " sparse", " dense")
    ],
    *[
        (f"{SPARSE}:other_row", {"m": 2, "n": 128, "pattern": "64x64 blocks 90%", "way": way}, COLD)
        for way in ("torch dense fp16", "torch CSR fp16", "torch BSR fp16")
    ],
]  # fmt: skip
"""Small ones of each kind."""

ELSEWHERE = {
    "bench.device.rows.persistent:network_row", "bench.device.rows.persistent:at_once_row",
    "bench.device.rows.persistent:starts_row", "bench.device.checks:file_row", "bench.device.sanitizer:tool_row",
    f"{NULL}:chosen", f"{NULL}:triton", f"{NULL}:cuda", f"{NULL}:mapped", f"{NULL}:built_ahead",
}  # fmt: skip
"""Run by other tests of this folder."""


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: python -m bench.device runs the rows on it")
    played_card.install(monkeypatch)


def test_every_function_of_the_table_is_run_somewhere() -> None:
    assert {row.measure for row in table.rows()} == {target for target, *_ in SMALL} | ELSEWHERE


@pytest.mark.parametrize(("target", "arguments", "fields"), SMALL)
def test_a_row_gives_its_fields(target: str, arguments: dict[str, Any], fields: set[str]) -> None:
    wanted = {name for row in table.rows() if row.measure == target for name in row.arguments}
    assert set(arguments) <= wanted or target.endswith(":answers")
    found = resolve(target)(**arguments)
    assert isinstance(found, Mapping)
    assert fields <= set(found)
    assert found.get("passed", True) is True
    assert all(found[name] > 0 for name in fields & (HOST | CARD))


def test_a_graph_holds_many_calls_and_their_time_is_one_calls() -> None:
    made: list[int] = []
    us = timing.device_us([lambda: made.append(0), lambda: made.append(1)])
    assert len(made) == 2 * 3 + timing.CALLS
    assert made[-4:] == [0, 1, 0, 1]
    assert played_card.Graph.captures == 1
    assert played_card.Graph.replays == 3 + timing.REPLAYS
    assert us == pytest.approx(8.0 * 1000 / (timing.REPLAYS * timing.CALLS))


def test_the_round_trip_is_timed_and_its_kernel_ends() -> None:
    found = null.round_trip(0.02, played_card.Echo)
    assert set(found) >= HOST
    (kernel,) = played_card.Echo.threads
    assert not kernel.is_alive()


def test_the_null_rows_start_their_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    from rtaccel.kernels._gpu import cubin_launch, cuda_launch, cuda_nvrtc, triton_launch

    started: list[str] = []
    reasons: list[str | None] = [None, "no NVRTC"]

    def launch(kind: str) -> Any:
        def start(grid: tuple[int, ...], *, request_ptr: Any, reply_ptr: Any, control_ptr: Any, **_: Any) -> None:
            started.append(kind)
            played_card.Echo(request_ptr, reply_ptr, control_ptr)

        return start

    monkeypatch.setattr(triton_launch, "bind", lambda spec: launch(spec.name))
    monkeypatch.setattr(cubin_launch, "load", lambda cubin: launch("echo"))
    monkeypatch.setattr(cuda_nvrtc, "compile_cubin", lambda kernel, capability: f"{kernel.entry} for {capability}")
    monkeypatch.setattr(cuda_launch, "unavailable", lambda kernel: reasons.pop(0))
    monkeypatch.setattr(cuda_launch, "bind", lambda kernel: launch(kernel.name))
    taken = null.chosen(0.01)
    assert set(taken) >= HOST and taken["kernel"] == "null_1_polled_by_4" and "note" not in taken
    instead = null.chosen(0.01)
    assert set(instead) >= HOST and instead["kernel"] == "triton_persistent" and instead["note"] == "no NVRTC"
    assert [started.pop(0), started.pop(0)] == ["null_1_polled_by_4", "null_persistent_1_1"]
    assert set(null.triton(0.01)) >= HOST
    assert set(null.cuda(0.01)) >= HOST
    asked: list[int] = []
    monkeypatch.setattr(
        persistent_device, "mapped_requests",
        lambda words: (asked.append(words), persistent_device.Requests.shared(torch.zeros(words, dtype=torch.int64)))[1],
    )  # fmt: skip
    assert set(null.mapped(0.01)) >= HOST and asked == [2]
    with pytest.raises(BackendUnavailable, match="no kernel built ahead"):
        null.built_ahead(0.01)
    monkeypatch.setattr(triton_launch, "built_ahead", lambda key: key)
    assert set(null.built_ahead(0.01)) >= HOST
    assert started == ["null_persistent_1_1", "echo", "echo", "null_persistent_1_1"]


def test_ways_that_a_pattern_does_not_have_are_refused() -> None:
    with pytest.raises(FormatError, match="torch BSR fp16"):
        resolve(f"{SPARSE}:other_row")(m=2, n=128, pattern="unstructured 50%", way="torch BSR fp16")


def test_a_package_that_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    way = "gemlite A8W8 int8 dynamic, CUDA graph"
    found = resolve(f"{GRAPHS}:peer_row")(kind="linear", name="2x8x8", way=way, seconds=0.01)
    assert found["outcome"] == "not run"
    assert "not installed" in found["error"]


def test_a_swap_is_to_other_weights_and_back() -> None:
    """Each turn changes the answer: a row that gave the weights that are there would time nothing."""
    fast = graphs.compiled(*given("network", "mlp 64-64-64-8")[:1], [torch.zeros(1, 64)], "w8a8", "graph")
    x, found = torch.randn(1, 64), []
    turn = swaps.turns(fast, lambda: found.append(fast(x)))
    before = fast(x)
    for _ in range(4):
        turn()
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3]) and torch.equal(found[1], before)
    assert not torch.equal(found[0], found[1])
