"""Single layers, dense and sparse: ours and torch's, with weights from memory (cold) or in the cache (warm)."""

from __future__ import annotations

from collections.abc import Iterator

from bench.device.planned.kinds import LARGE_MIB, graph
from bench.device.row import Row

LINEAR = ("1x1024x1024", "1x4096x4096", "16x4096x4096", "64x4096x4096")
"""MxKxN of single layers."""

MANY_ROWS = ("16x4096x4096", "64x4096x4096")
"""Of those, where tensor cores multiply; there W8A16 is measured as well."""

ONE_ROW, FEW_ROWS = "1x4096x4096", ("2x4096x4096", "4x4096x4096", "8x4096x4096")
"""Of one size, what one or a few rows have for themselves."""

DYNAMIC = "w8a8 dynamic"
"""Activations are rounded in the launch that multiplies them; static ones in a launch before."""

INT4 = ("w4a16 g128", "w4a16 g32")
"""Groups of 128 as in the literature, and our own length."""

SPARSE_GOALS = (
    (1, "unstructured 50%"), (1, "unstructured 90%"), (16, "64x64 blocks 90%"), (1, "2:4"), (16, "2:4"),
)  # fmt: skip
SPARSE_PATTERNS = (
    "unstructured 50%", "unstructured 90%", "unstructured 95%", "16x16 blocks 80%", "64x64 blocks 90%", "2:4",
)  # fmt: skip


def linear(seconds: float) -> Iterator[Row]:
    """What goals compare: groups of 128, int8 and torch, cold; and groups of 128 from the host."""
    for name in LINEAR:
        yield _cold(name, INT4[0])
        yield _torch_linear(name, cold=True)
        yield _cold(name, "w8a8")
    for name in LINEAR:
        yield graph("linear", f"linear {name}", name, INT4[0], seconds)


def linear_others(seconds: float) -> Iterator[Row]:
    """The same in groups of 32, int8 from the host, and torch warm."""
    for name in LINEAR:
        yield _cold(name, INT4[1])
    for name in MANY_ROWS:
        yield _cold(name, "w8a16")
    for name in LINEAR:
        for scheme in (INT4[1], "w8a8"):
            yield graph("linear", f"linear {name}", name, scheme, seconds)
        yield _torch_linear(name, cold=False)


def linear_few() -> Iterator[Row]:
    """One to eight rows, beside what the goals compare; int8 whose activations are rounded where they are multiplied."""
    yield _cold(ONE_ROW, "w8a16")
    yield _cold(ONE_ROW, DYNAMIC)
    for name in FEW_ROWS:
        for scheme in (INT4[0], "w8a16"):
            yield _cold(name, scheme)
        yield _torch_linear(name, cold=True)


def _cold(name: str, scheme: str) -> Row:
    what = {"kind": "linear", "name": name, "scheme": scheme}
    return Row(
        f"linear {name} cold, rtaccel {scheme}", "bench.device.rows.graphs:cold_row", {"name": name, "scheme": scheme},
        "linear cold", 6, 60, LARGE_MIB, prepare="bench.device.prepare:graph", prepare_arguments=what,
    )  # fmt: skip


def _torch_linear(name: str, cold: bool) -> Row:
    return Row(
        f"linear {name} {'cold' if cold else 'warm'}, torch fp16", "bench.device.rows.graphs:torch_linear_row",
        {"name": name, "cold": cold}, "linear cold" if cold else "linear graphs", 2, 30, LARGE_MIB,
    )  # fmt: skip


def _ours_sparse(m: int, n: int, pattern: str, scheme: str = "w8a8", forced: str = "") -> Row:
    what = {"m": m, "n": n, "pattern": pattern, "scheme": scheme, "forced": forced}
    return Row(
        f"sparse {m}x{n}x{n} {pattern} cold, rtaccel {scheme}{forced}", "bench.device.rows.sparse:ours_row", what,
        "sparse", 8, 60, LARGE_MIB, prepare="bench.device.prepare:sparse", prepare_arguments=what,
    )  # fmt: skip


def _other_sparse(m: int, n: int, pattern: str, way: str) -> Row:
    return Row(
        f"sparse {m}x{n}x{n} {pattern} cold, {way}", "bench.device.rows.sparse:other_row",
        {"m": m, "n": n, "pattern": pattern, "way": way}, "sparse", 3, 30, LARGE_MIB,
    )  # fmt: skip


def sparse_goals() -> Iterator[Row]:
    for m, pattern in SPARSE_GOALS:
        yield _ours_sparse(m, 4096, pattern)
        yield _other_sparse(m, 4096, pattern, "torch dense fp16")


def sparse_others() -> Iterator[Row]:
    for m, pattern in SPARSE_GOALS:
        yield _ours_sparse(m, 4096, pattern, DYNAMIC)
    for m in (1, 16):
        for pattern in SPARSE_PATTERNS:
            if (m, pattern) not in SPARSE_GOALS:
                yield _ours_sparse(m, 4096, pattern)
                yield _other_sparse(m, 4096, pattern, "torch dense fp16")
            for scheme, forced in (("w8a8", " sparse"), ("w8a8", " dense"), ("bfloat16", "")):
                yield _ours_sparse(m, 4096, pattern, scheme, forced)
            yield _other_sparse(m, 4096, pattern, "torch CSR fp16")
            if "blocks" in pattern:
                yield _other_sparse(m, 4096, pattern, "torch BSR fp16")
            if pattern == "2:4":
                yield _other_sparse(m, 4096, pattern, "torch semi-structured fp16")
            yield _other_sparse(m, 4096, pattern, "cupy cuSPARSE CSR fp32")
    for pattern in SPARSE_PATTERNS:
        yield _ours_sparse(1, 1024, pattern)
        yield _other_sparse(1, 1024, pattern, "torch dense fp16")
