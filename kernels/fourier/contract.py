"""Fourier: y[line, k] = scale sum over j of x[line, j] exp(-+ 2 pi i j k / n), float32; [M, steps, width].

attrs["kind"]: "real" (x: n real numbers), "complex" (x: n real parts, then n imaginary ones) or "to_real" (x: n // 2 + 1 real
parts, then as many imaginary ones; y: the n real numbers whose transform these begin, inverse). attrs["inverse"]: 1 for a + in
the exponent, not with "real". attrs["n"]. attrs["wanted"]: so many numbers of y, the first ones; complex ones as their real
parts, then the imaginary ones. attrs["scale"]. attrs["dims"]: sizes of the dimensions that lines differ in, then of a line of
x; attrs["place"]: of x over them, an offset and strides in elements. The tensor "window", where there is one, multiplies each
line of "real".

y is dense, [lines, wanted or 2 wanted]. The imaginary parts of X[0] and, for even n, X[n / 2] are not read by "to_real", and
"real" gives 0 for them, with a plus sign: a phase that is taken of them is 0 or pi.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log2, prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._common import lines
from rtaccel.kernels.fourier import plan
from rtaccel.kernels.fourier.streaming import STREAMING

KINDS = ("real", "complex", "to_real")


def line_lengths(kind: str, n: int, wanted: int) -> tuple[int, int]:
    """Numbers in a line of x and of y."""
    if kind == "to_real":
        return 2 * (n // 2 + 1), n
    return (n if kind == "real" else 2 * n), 2 * wanted


def _checked(stage: Stage) -> plan.Split:
    """Raises a typed error where the stage is none."""
    kind, n, wanted = stage.attrs["kind"], stage.attrs["n"], stage.attrs["wanted"]
    found = plan.split(n, kind != "complex")
    if kind not in KINDS or found is None or (kind == "real" and stage.attrs["inverse"]):
        raise FormatError("fourier", f"{kind!r} of {n} numbers", f"one of {', '.join(KINDS)}, of small factors",
                          "Use a product with a matrix.")  # fmt: skip
    given, made = line_lengths(kind, n, wanted)
    dims = tuple(stage.attrs["dims"])
    x, y = stage.inputs[0], stage.outputs[0]
    lines.check_place("fourier", dims, tuple(stage.attrs["place"]), x.steps * x.width)
    most = n if kind == "to_real" else n // 2 + 1 if kind == "real" else n
    window = stage.tensors.get("window")
    if dims[-1] != given or y.steps * y.width != prod(dims[:-1]) * made or not 1 <= wanted <= most:
        raise ShapeError("fourier", f"{dims} to {y.steps} x {y.width}, {wanted} of {n}", f"lines of {given} to {made}",
                         "Correct the stage.")  # fmt: skip
    if window is not None and (kind != "real" or window.numel() != n):
        raise ShapeError("fourier", f"a window of {window.numel()} for {kind!r}", f"{n} numbers", "Correct the stage.")
    return found


def lower(stage: Stage) -> Mapping[str, Any]:
    found, x = _checked(stage), stage.inputs[0]
    dims, n = tuple(stage.attrs["dims"]), stage.attrs["n"]
    low: dict[str, Any] = {
        "kind": stage.attrs["kind"], "inverse": stage.attrs["inverse"], "n": n, "wanted": stage.attrs["wanted"],
        "p": found.p, "q": found.q, "paired": int(found.paired), "count": prod(dims[:-1]), "along": dims[-1],
        "scale": torch.tensor([stage.attrs["scale"]], dtype=torch.float32),
        **lines.tables("0", dims, len(dims) - 1, tuple(stage.attrs["place"]), x.width),
    }  # fmt: skip
    for name, length in (("p", found.p), ("q", found.q)):
        factors, roots = plan.butterflies(length)
        low |= {f"radices_{name}": factors, f"roots_{name}": roots}
    low["turn_re"], low["turn_im"] = (t.reshape(-1) for t in plan.rotation(found.p, found.q))
    if found.paired:
        low["half"] = plan.roots(range(found.count + 1), n).reshape(-1)
    if "window" in stage.tensors:
        low["window"] = stage.tensors["window"].reshape(-1)
    return low


def transformed(stage: Stage, x: Tensor) -> Tensor:
    """Along the last dimension, in whatever precision x has."""
    kind, n, wanted = stage.attrs["kind"], stage.attrs["n"], stage.attrs["wanted"]
    scale, inverse = stage.attrs["scale"], stage.attrs["inverse"]
    if not x.numel():  # torch's own refuses it
        return x.new_zeros((*x.shape[:-1], line_lengths(kind, n, wanted)[1]))
    if kind == "to_real":
        m = n // 2 + 1
        re, im = x[..., :m], x[..., m:].clone()
        im[..., 0] = 0.0
        if n % 2 == 0:
            im[..., -1] = 0.0
        return torch.fft.irfft(torch.complex(re, im), n=n, norm="forward") * scale
    if kind == "real":
        window = stage.tensors.get("window")
        found = torch.fft.rfft(x if window is None else x * window.to(x))
    else:
        z = torch.complex(x[..., :n], x[..., n:])
        found = torch.fft.ifft(z, norm="forward") if inverse else torch.fft.fft(z)
    found = found[..., :wanted] * scale
    return torch.cat([found.real, found.imag], -1)


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    _checked(stage)
    dims = tuple(stage.attrs["dims"])
    given = lines.read(x, dims, len(dims) - 1, tuple(stage.attrs["place"]))
    return (transformed(stage, given.double()).float().reshape(x.shape[0], *stage.outputs[0].shape),)


def tolerance(stage: Stage, x: Tensor) -> Tolerance:
    """Each of log2(n) levels adds a few roundings of numbers no larger than the sum of the sizes of a line, times the scale; a
    root is wrong by half a unit."""
    dims, n = tuple(stage.attrs["dims"]), stage.attrs["n"]
    given = lines.read(x, dims, len(dims) - 1, tuple(stage.attrs["place"])).double()
    size = given.abs().sum(-1, keepdim=True) * abs(stage.attrs["scale"])
    window = stage.tensors.get("window")
    size = size * (1.0 if window is None else float(window.abs().max()))
    bound = torch.finfo(torch.float32).eps * (4 * log2(n) + 8) * size + 1e-37
    made = line_lengths(stage.attrs["kind"], n, stage.attrs["wanted"])[1]
    return Tolerance(atol=bound.expand(*bound.shape[:-1], made).reshape(x.shape[0], *stage.outputs[0].shape))


def make_stage(
    kind: str,
    n: int,
    wanted: int,
    count: int,
    inverse: int = 0,
    hop: int = 0,
    window: bool = False,
    beside: bool = False,
) -> Stage:
    """hop: lines overlap, each so many elements after the one before; 0: they lie one after the other. beside: they are the
    columns of a matrix."""
    given, made = line_lengths(kind, n, wanted)
    step = hop or given
    if beside:
        x = Value("x", count, steps=given)
    else:
        x = Value("x", step * (count - 1) + given) if hop else Value("x", given, steps=count)
    y = Value("y", made, steps=count)
    attrs = {"kind": kind, "n": n, "wanted": wanted, "inverse": inverse, "scale": 1.0 / n if inverse else 1.0,
             "dims": (count, given), "place": (0, 1, count) if beside else (0, step, 1)}  # fmt: skip
    tensors = {"window": torch.hann_window(n, periodic=True)} if window else {}
    return Stage("fourier", "case", (x,), (y,), tensors, attrs)


def _case(label: str, stage: Stage) -> Case:
    def make(seed: int) -> tuple[Tensor, ...]:
        return (torch.randn(2, *stage.inputs[0].shape, generator=torch.Generator().manual_seed(seed)),)

    return Case(label, stage, make)


def cases() -> Iterator[Case]:
    for n in (16, 20, 32, 60, 64, 81, 100, 105, 128, 143, 240, 256, 400, 441, 512, 1024, 1155):
        for kind in KINDS:
            if plan.split(n, kind != "complex") is None:
                continue
            wanted = n if kind != "real" else n // 2 + 1
            for inverse in (0, 1) if kind == "complex" else (int(kind == "to_real"),):
                yield _case(f"{kind}-{n}-{inverse}", make_stage(kind, n, wanted, 3, inverse))
    for kind, n in (("real", 64), ("real", 81), ("complex", 60), ("to_real", 100), ("to_real", 105)):
        wanted, inverse = n // 2 if kind == "real" else n, int(kind == "to_real")
        for count in (19, 32):  # side by side: whole vectors of lines, and some that are left
            yield _case(f"{kind}-{n}-of-{count}", make_stage(kind, n, wanted, count, inverse))
            yield _case(f"{kind}-{n}-beside-{count}", make_stage(kind, n, wanted, count, inverse, beside=True))
    yield _case("frames-160", make_stage("real", 160, 81, 35, hop=80, window=True))
    yield _case("frames-400", make_stage("real", 400, 201, 11, hop=160, window=True))
    yield _case("frames-512", make_stage("real", 512, 100, 5, hop=128, window=True))
    yield _case("frames-225", make_stage("real", 225, 113, 4, hop=75, window=True))


def cost(problem: Problem) -> Cost:
    n, count = problem.attrs["n"], problem.rows * prod(problem.attrs["dims"][:-1])
    given, made = line_lengths(problem.attrs["kind"], n, problem.attrs["wanted"])
    return Cost(bytes=4 * count * (given + made), flops=int(2.5 * count * n * max(log2(n), 1.0)))


def packed_bytes(stage: Stage) -> int:
    return lines.table_bytes(stage.attrs["dims"], 1) + 64 * stage.attrs["n"] + 65536


OPERATOR = register_operator(
    Operator(
        name="fourier",
        axes={"x": ("M", "steps", "width"), "y": ("M", "lines", "numbers")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=packed_bytes,
        by_row=False,
        streaming=STREAMING,
    )
)
