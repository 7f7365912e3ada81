"""What is measured on a card, in the order of what it is worth. It imports neither torch nor the library.

A row is left out where less time is left than it should take, so what stands at the end is what may be missing. The estimates
are guesses until a card has said otherwise; `took_s` of every row in the results is what they are mended with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.device.checks import FILES
from bench.device.planned.kinds import CONTEXT_MIB, LARGE_MIB, graph, peer
from bench.device.planned.layers import LINEAR, linear, linear_few, linear_others, sparse_goals, sparse_others
from bench.device.row import Row
from bench.device.sanitizer import TOOLS

AUTOENCODER = "autoencoder 640-128x4-8-128x4-640"
MLPS: dict[str, tuple[int, ...]] = {
    "mlp 64-64-64-8": (64, 64, 64, 8),
    "mlp 128x6": (128,) * 7,
    "mlp 256-384-384-128": (256, 384, 384, 128),
    "mlp 256-512-512-128": (256, 512, 512, 128),
    "mlp 640-128-8-128-640": (640, 128, 8, 128, 640),
}
NETWORKS = (*MLPS, AUTOENCODER)
"""Some are cut among multiprocessors in their persistent form."""

STEPS = {
    "gru 64-128": 20, "LSTM_A 2x100": 50, "LSTM_B 3x200": 100, "LSTM_C 4x1000": 100, "TCN 3x128 k8": 3 * 7 + 1,
    "TCN 9x128 k3": 3 * 2 * 7 + 1,
}  # fmt: skip
"""Networks of sequences, and the steps of their windows."""

WINDOWS = {name: STEPS[name] for name in ("gru 64-128", "LSTM_A 2x100", "LSTM_B 3x200")}
"""Windows that are measured in int4 and float32, too, and by the kernel that had them before."""

WINDOWS_BEFORE = {"w8a8": "triton_stack", "float32": "triton_float32"}

STAC_ML = ("LSTM_A 2x100", "LSTM_B 3x200", "LSTM_C 4x1000")
OPERATIONS = (
    "spectrum of 100 frames of 400", "running sums of 8 lines of 4096", "sort of 8 lines of 1024", "largest of 50257",
    "2048 messages to 256 nodes", "a system of 16", "attention of 128 tokens, 8 heads of 32", "50 time steps of an RNN 64-64",
    "100 trees of 6 levels, 12 features", "500 trees of 6 levels, 30 features",
)  # fmt: skip
MANY = ("10000 streams of GRU-32, one time step",)
"""All streams of a recurrent layer in one launch, their states in and out."""

TOKENS = ("encoder of 6 layers, 32 tokens",)
"""Samples of many steps, which are rows of its layers."""

SWAPPED = "mlp 256-384-384-128"
"""The network whose weights are changed while it is called; and of a stream LSTM_A's."""

FLOAT32 = "torch CUDA graph float32"
SMALL = "mlp 64-64-64-8"


def rows(seconds: float = 1.0) -> list[Row]:
    """seconds: of calls of a row that is timed from the host; a persistent one takes twice that, for 1e5 calls."""
    return [
        *null(2 * seconds), *streams(2 * seconds), *persistent(2 * seconds), *graphs(seconds), *linear(seconds),
        *several(2 * seconds), *sparse_goals(), *linear_others(seconds), *checks(), *others_of_ours(2 * seconds),
        *peers(seconds), *sparse_others(),
    ]  # fmt: skip


def null(seconds: float) -> Iterator[Row]:
    at, name = "bench.device.rows.null", "null model, persistent"
    card: dict[str, Any] = {"memory_mib": CONTEXT_MIB, "family": "null"}
    yield Row("the card answers", f"{at}:answers", {}, "null", 5, 60, check=True, early=True, canary="fork")
    yield Row(name, f"{at}:chosen", {"seconds": seconds}, estimate_s=8, limit_s=40, early=True, **card)
    yield Row(f"{name}, by Triton", f"{at}:triton", {"seconds": seconds}, estimate_s=8, limit_s=40, early=True, **card)
    yield Row(
        f"{name}, GDR mapping", f"{at}:mapped", {"seconds": seconds}, estimate_s=6, limit_s=40, early=True, **card
    )
    yield Row(f"{name}, CUDA C++", f"{at}:cuda", {"seconds": seconds}, estimate_s=6, limit_s=40, early=True, **card)
    yield Row(
        f"{name}, built ahead", f"{at}:built_ahead", {"seconds": seconds}, estimate_s=6, limit_s=30, canary="store",
        prepare="bench.device.prepare:null", **card,
    )  # fmt: skip


def _step(name: str, scheme: str, seconds: float, kernel: str = "", how: str = "") -> Row:
    """how: one of bench.device.rows.streams.HOW."""
    large = name == "LSTM_C 4x1000"
    what = {"name": name, "scheme": scheme, **({"kernel": kernel} if kernel else {})}
    what |= {"how": how} if how else {}
    by = (f", by {kernel}" if kernel else "") + (f", {how}" if how else "")
    return Row(
        f"{name}, one time step, rtaccel {scheme} persistent{by}",
        "bench.device.rows.streams:step_row", {**what, "seconds": seconds}, f"stream {name}", 20 if large else 10,
        90 if large else 45, CONTEXT_MIB, prepare="bench.device.prepare:stream", prepare_arguments=what,
    )  # fmt: skip


def streams(seconds: float) -> Iterator[Row]:
    """A time step of each network of STAC-ML first: that is what they are judged by."""
    for name in STAC_ML:
        yield _step(name, "w8a8", seconds)


def _chain(name: str, seconds: float, kernel: str = "") -> Row:
    what = {"name": name, "scheme": "w8a8", **({"kernel": kernel} if kernel else {})}
    return Row(
        f"{name}, rtaccel w8a8 persistent" + (f", by {kernel}" if kernel else ""),
        "bench.device.rows.persistent:network_row", {**what, "seconds": seconds}, "persistent", 6, 30, CONTEXT_MIB,
        prepare="bench.device.prepare:persistent", prepare_arguments=what,
    )  # fmt: skip


def persistent(seconds: float) -> Iterator[Row]:
    for name in NETWORKS:
        yield _chain(name, seconds)
    for name in ("TCN 3x128 k8", "TCN 9x128 k3", "gru 64-128"):
        yield _step(name, "w8a8", seconds)


def graphs(seconds: float) -> Iterator[Row]:
    for name in NETWORKS:
        for scheme in ("w8a8", "w4a16"):
            yield graph("network", name, name, scheme, seconds)


def several(seconds: float) -> Iterator[Row]:
    at = "bench.device.rows.persistent"
    ahead: dict[str, Any] = {
        "prepare": "bench.device.prepare:persistent",
        "prepare_arguments": {"name": SMALL, "scheme": "w8a8"},
    }
    yield Row(
        "one model of eight, alone", f"{at}:at_once_row", {"name": SMALL, "seconds": seconds}, "", 12, 60, CONTEXT_MIB,
        more=("one model of 8, all called at once",), **ahead,
    )  # fmt: skip
    yield Row(
        "start and stop, 1000 times", f"{at}:starts_row", {"name": SMALL, "times": 1000, "seconds": 25.0}, "", 20, 60,
        CONTEXT_MIB, check=True, **ahead,
    )  # fmt: skip
    yield Row(
        "two streams", "bench.device.rows.graphs:two_streams", {"name": SMALL}, "", 8, 40, CONTEXT_MIB, check=True
    )


def checks() -> Iterator[Row]:
    """Tests that need a card, file by file, and the sanitizer over a few of them."""
    for file in FILES:
        what, at = {"path": file.path, "words": file.words, "limit_s": file.limit_s}, "bench.device.checks:file_row"
        limit = file.limit_s + 15
        yield Row(f"checks of {file.path}", at, what, "", file.estimate_s, limit, check=True)
    for tool in TOOLS:
        at = "bench.device.sanitizer:tool_row"
        yield Row(f"compute-sanitizer {tool}", at, {"tool": tool}, "", 30, 60, check=True)


def swaps(seconds: float) -> Iterator[Row]:
    """Other weights and the first call with them, under a graph, under a persistent kernel and under a stream."""
    at, lstm = "bench.device.rows.swaps", STAC_ML[0]
    for mode, where in (("graph", "a graph"), ("persistent", "a persistent kernel")):
        what: dict[str, Any] = {"name": SWAPPED, "scheme": "w8a8"}
        yield Row(
            f"{SWAPPED}, swap and a call under {where}", f"{at}:network_row", {**what, "mode": mode, "seconds": seconds}, "swaps",
            8, 45, CONTEXT_MIB, prepare=f"bench.device.prepare:{mode}",
            prepare_arguments={**what, "kind": "network"} if mode == "graph" else what,
        )  # fmt: skip
    what = {"name": lstm, "scheme": "w8a8"}
    yield Row(
        f"{lstm}, swap and a time step under a persistent kernel", f"{at}:stream_row", {**what, "seconds": seconds}, "swaps", 10,
        45, CONTEXT_MIB, prepare="bench.device.prepare:stream", prepare_arguments=what,
    )  # fmt: skip


def others_of_ours(seconds: float) -> Iterator[Row]:
    """int4 in the persistent kernel, each kernel for a stack, other forms; each of those for a chain, windows as graphs; then
    float32, beside torch's."""
    for name in STAC_ML:
        yield _step(name, "w4a8", seconds)
    for name in STAC_ML:
        for kernel in ("triton_persistent", "cuda_recurrent"):
            yield _step(name, "w8a8", seconds, kernel)
        yield _step(name, "w8a8", seconds, "cuda_recurrent", "one poll")
        yield _step(name, "w8a8", seconds, how="GDR mapping")
    yield _step("LSTM_B 3x200", "w8a8", seconds, "cuda_recurrent", "through L2")
    for name in NETWORKS:
        for kernel in ("triton_persistent", "cuda_chain"):
            yield _chain(name, seconds, kernel)
    for name, steps in STEPS.items():
        yield graph("window", f"{name}, window of {steps}", name, "w8a8", seconds, 10)
    for name, steps in WINDOWS.items():
        yield graph("window", f"{name}, window of {steps}", name, "w4a8", seconds, 10)
        yield graph("window", f"{name}, window of {steps}", name, "float32", seconds, 10)
        for scheme, before in WINDOWS_BEFORE.items():
            yield graph("window", f"{name}, window of {steps}", name, scheme, seconds, 10, before)
        yield peer("window", f"{name}, window of {steps}", name, FLOAT32, seconds, 3)
    yield from swaps(seconds)
    yield from linear_few()
    for name in TOKENS:
        yield graph("tokens", name, name, "w8a8", seconds, 12)
        for way in (FLOAT32, "torch CUDA graph fp16"):
            yield peer("tokens", name, name, way, seconds, 4)
    for name in MANY:
        for scheme in ("w8a8", "float32"):
            yield graph("many", name, name, scheme, seconds, 8)
            yield Row(
                f"{name}, rtaccel {scheme} rt.stream in a graph", "bench.device.rows.streams:many_row",
                {"streams": 10_000, "units": 32, "scheme": scheme, "seconds": seconds}, "", 8, 45, LARGE_MIB,
            )  # fmt: skip
        for way in (FLOAT32, "torch CUDA graph fp16"):
            yield peer("many", name, name, way, seconds, 4)
    for name in OPERATIONS:
        yield graph("operation", name, name, "float32", seconds, 5)
        yield peer("operation", name, name, FLOAT32, seconds, 3)


def peers(seconds: float) -> Iterator[Row]:
    """Those without a compiler first."""
    quick = ("torch eager fp16", "torch CUDA graph fp16")
    for name in NETWORKS:
        for way in quick:
            yield peer("network", name, name, way, seconds, 3)
    for name in STEPS:
        for way in quick:
            yield _torch_step(name, way, seconds, 3)
    for name in LINEAR:
        for way in quick:
            yield peer("linear", f"linear {name}", name, way, seconds, 3)
    for name in NETWORKS:
        yield peer("network", name, name, "torch.compile reduce-overhead fp16", seconds, 20)
    for name in STEPS:
        yield _torch_step(name, "torch.compile reduce-overhead fp16", seconds, 25)
    for name in LINEAR:
        for way in ("torchao int8 weight-only, compiled, CUDA graph", "torchao int8 dynamic, compiled, CUDA graph"):
            yield peer("linear", f"linear {name}", name, way, seconds, 40)
        yield peer("linear", f"linear {name}", name, "gemlite A8W8 int8 dynamic, CUDA graph", seconds, 30)


def _torch_step(name: str, way: str, seconds: float, estimate: float) -> Row:
    return Row(
        f"{name}, one time step, {way}", "bench.device.rows.streams:torch_step_row",
        {"name": name, "way": way, "seconds": seconds}, "peers" if estimate < 5 else "", estimate, 4 * estimate + 20, LARGE_MIB,
    )  # fmt: skip
