"""Fourier transforms in Triton: a line as a matrix [p, q], and two products with small matrices of roots.

    X[a + p b] = sum over j of (R[a, j] sum over i of P[a, i] x[i q + j]) Q[j, b]        n = p q; a, i < p; b, j < q

with P the roots of p, Q those of q and R the rotation between, exp(-+ 2 pi i a j / n) (Bailey, FFTs in external or hierarchical
memory, 1990). A program has one line. Butterflies would need a line to be exchanged between threads at each level; two products
of FFMA units need it once, and 2 n (p + q) of them are few up to some thousand numbers. TF32 would round x to 10 bits.

Real numbers are products with real matrices in the first step, and of their transform only what is wanted is computed in the
second. A line of which half is given ("to_real") counts each number of that half twice, but for the mean and half the rate.
Window, sign, scale and the frames of a signal, which overlap, are in it. What rows are past p or q is zero on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_places import address, digits, joined
from rtaccel.kernels._general.triton_source import specialisation_of
from rtaccel.kernels._general.triton_tile import require_values, text_of, too_large
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two
from rtaccel.kernels.fourier import contract, plan

MAX_NUMBERS = {"real": 2048, "complex": 1024, "to_real": 1024}
"""Elements of the padded matrix: what 8 warps hold with the operands of a product, which are in registers too."""


PLAIN = 'tl.dot({}, {}, input_precision="ieee")'.format
DOT = 'tl.dot({}, {}, {}, input_precision="ieee")'.format
"""Texts of products of two matrices, and of one that is added to a third."""


MAX_SUMMED = 32
"""Rows of the second product: a thread has all that it sums over in registers."""


@dataclass(frozen=True)
class Sides:
    """p, q: n = p q. first: rows i that are summed over in the first product. last: columns b of the second."""

    p: int
    q: int
    first: int
    last: int

    def padded(self) -> tuple[int, int, int, int]:
        return tuple(power_of_two(s, 16, 1 << 20) for s in (self.p, self.q, self.first, self.last))  # type: ignore[return-value]


def sides(kind: str, n: int, wanted: int) -> Sides:
    """The factors with the fewest products when padded, of those the ones with the shortest sides."""

    def made(p: int) -> Sides:
        q = n // p
        first = n // 2 // q + 1 if kind == "to_real" else p
        return Sides(p, q, first, -(-wanted // p))

    def products(s: Sides) -> tuple[int, int, int]:
        p, q, first, last = s.padded()
        return p * q * (first + 2 * last), max(p, q), s.q

    return min((made(p) for p in range(1, n + 1) if n % p == 0), key=products)


def roots_of(a: int, b: int, rows: int, columns: int, n: int, inverse: bool) -> tuple[Tensor, Tensor]:
    """exp(-+ 2 pi i r c / n) for r < a, c < b, in a matrix [rows, columns] of zeros: real and imaginary parts."""
    found = plan.roots(torch.arange(a)[:, None] * torch.arange(b)[None, :], n)
    parts = []
    for part in (found[..., 0], -found[..., 1] if inverse else found[..., 1]):
        whole = torch.zeros(rows, columns)
        whole[:a, :b] = part
        parts.append(whole.reshape(-1))
    return parts[0], parts[1]


def tables(kind: str, s: Sides, n: int, inverse: bool) -> dict[str, Tensor]:
    bp, bq, first, last = s.padded()
    found = {}
    for name, parts in (
        ("p", roots_of(s.p, s.first, bp, first, s.p, inverse)),
        ("r", roots_of(s.p, s.q, bp, bq, n, inverse)),
        ("q", roots_of(s.q, s.last, bq, last, s.q, inverse)),
    ):
        found |= {f"{name}_re_ptr": parts[0], f"{name}_im_ptr": parts[1]}
    return found


def rotated(kind: str, p: str, x: str) -> list[str]:
    """a_re, a_im: the first product. p, x: names of the matrices, without _re and _im."""
    lines = [f"a_re = {DOT(f'{p}_re', f'{x}_re', 'a_re')}", f"a_im = {DOT(f'{p}_im', f'{x}_re', 'a_im')}"]
    if kind != "real":
        lines += [f"a_re -= {PLAIN(f'{p}_im', f'{x}_im')}", f"a_im = {DOT(f'{p}_re', f'{x}_im', 'a_im')}"]
    return lines


ROTATION = (
    "r_re, r_im = tl.load(r_re_ptr + at_r), tl.load(r_im_ptr + at_r)",
    "b_re, b_im = a_re * r_re - a_im * r_im, a_re * r_im + a_im * r_re",
)


def stores(kind: str, n: int, made: int, back: bool) -> list[str]:
    """y_re and y_im of the numbers k, where they are `there`, behind `to`."""
    lines = ["tl.store(to + k, y_re * scale, mask=there)"]
    if back:
        return lines
    lines += ["y_im = y_im * scale"]
    if kind == "real":  # 0 with a plus sign, whatever was rounded before: a phase that is taken of it is 0 or pi
        alone = "(k == 0)" + (f" | (k == {n // 2})" if n % 2 == 0 else "")
        lines += [f"y_im = tl.where({alone}, 0.0, y_im)"]
    return [*lines, f"tl.store(to + {made // 2} + k, y_im, mask=there)"]


def numbers(stage: Stage, mask: str) -> list[str]:
    """x_re and, where it is complex, x_im: the numbers i of a line behind `start`, as they go into the first product."""
    kind, n, step = stage.attrs["kind"], stage.attrs["n"], stage.attrs["place"][-1]
    given = n // 2 + 1 if kind == "to_real" else n
    load = f"tl.load(start + {{}} * {step}, mask={mask}, other=0.0)".format
    lines = [f"x_re = {load('i')}"]
    if "window" in stage.tensors:
        lines += [f"x_re = x_re * tl.load(window_ptr + i, mask={mask}, other=0.0)"]
    if kind != "real":
        lines += [f"x_im = {load(f'(i + {given})')}"]
    if kind == "to_real":
        alone = "(i == 0)" + (f" | (i == {n // 2})" if n % 2 == 0 else "")
        lines += [
            f"alone = {alone}",
            "x_re = tl.where(alone, x_re, 2.0 * x_re)",
            "x_im = tl.where(alone, 0.0, 2.0 * x_im)",
        ]
    return lines


def specialize(stage: Stage) -> Specialisation:
    attrs, x = stage.attrs, stage.inputs[0]
    kind, n, wanted, dims = attrs["kind"], attrs["n"], attrs["wanted"], tuple(attrs["dims"])
    s, place, count = sides(kind, n, wanted), tuple(attrs["place"]), prod(dims[:-1])
    bp, bq, first, last = s.padded()
    made, back = contract.line_lengths(kind, n, wanted)[1], kind == "to_real"
    outer_dims, (outer,) = joined(dims[:-1], [place[:-1]])
    given = n // 2 + 1 if kind == "to_real" else n
    fixed = [f"{name}_{part}_ptr" for name in "prq" for part in ("re", "im")]
    fixed += ["window_ptr"] if "window" in stage.tensors else []
    constants = {"LINES": count, "BLOCK_P": bp, "BLOCK_Q": bq, "FIRST": first, "LAST": last}
    text = text_of([
        f"def kernel(y_ptr, x_ptr, {', '.join(fixed)}, scale, {', '.join(f'{c}: tl.constexpr' for c in constants)}):",
        "m = (tl.program_id(0) // LINES).to(tl.int64)",
        "line = tl.program_id(0) % LINES",
        *digits(outer_dims, "line", "d"),
        f"start = x_ptr + m * {x.steps * x.width} + {address(outer, 'd')}",
        f"to = y_ptr + tl.program_id(0).to(tl.int64) * {made}",
        "row = tl.arange(0, FIRST)[:, None]",
        "column = tl.arange(0, BLOCK_Q)[None, :]",
        f"i = row * {s.q} + column",
        f"inside = (row < {s.first}) & (column < {s.q}) & (i < {given})",
        *numbers(stage, "inside"),
        "at_p = tl.arange(0, BLOCK_P)[:, None] * FIRST + tl.arange(0, FIRST)[None, :]",
        "at_r = tl.arange(0, BLOCK_P)[:, None] * BLOCK_Q + column",
        "at_q = tl.arange(0, BLOCK_Q)[:, None] * LAST + tl.arange(0, LAST)[None, :]",
        "p_re, p_im = tl.load(p_re_ptr + at_p), tl.load(p_im_ptr + at_p)",
        "a_re, a_im = tl.zeros((BLOCK_P, BLOCK_Q), tl.float32), tl.zeros((BLOCK_P, BLOCK_Q), tl.float32)",
        *rotated(kind, "p", "x"), *ROTATION,
        "q_re, q_im = tl.load(q_re_ptr + at_q), tl.load(q_im_ptr + at_q)",
        f"y_re = {PLAIN('b_re', 'q_re')} - {PLAIN('b_im', 'q_im')}",
        *([] if back else [f"y_im = {DOT('b_im', 'q_re', PLAIN('b_re', 'q_im'))}"]),
        f"k = tl.arange(0, BLOCK_P)[:, None] + {s.p} * tl.arange(0, LAST)[None, :]",
        f"there = (tl.arange(0, BLOCK_P)[:, None] < {s.p}) & (k < {wanted})",
        *stores(kind, n, made, back),
    ])  # fmt: skip
    return specialisation_of(
        f"fourier_{kind}{'_inverse' if attrs['inverse'] else ''}_n{n}_{wanted}",
        text,
        {"y_ptr": "*fp32", "x_ptr": "*fp32", **dict.fromkeys(fixed, "*fp32"), "scale": "fp32"},
        constants,
        Tiling(bp, last, bq, num_warps=power_of_two(bp * bq // 128, 4, 8)),
    )


def supports(problem: Problem) -> str | None:
    attrs = problem.attrs
    bp, bq, first, _ = sides(attrs["kind"], attrs["n"], attrs["wanted"]).padded()
    if max(bp, first) * bq > MAX_NUMBERS[attrs["kind"]] or bq > MAX_SUMMED:
        return (
            f"holds a line in registers, at most {MAX_NUMBERS[attrs['kind']]} numbers, not {attrs['n']} as {bp} x {bq}"
        )
    return too_large(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, steps, width] -> y [M, steps, width]; any M."""
    contract.lower(stage)  # what it refuses, it refuses here too
    attrs, spec, out = stage.attrs, specialize(stage), stage.outputs[0]
    launch, count = bind(spec), spec.constants["LINES"]
    kind, n = attrs["kind"], attrs["n"]
    found = tables(kind, sides(kind, n, attrs["wanted"]), n, bool(attrs["inverse"]) or kind == "to_real")
    if "window" in stage.tensors:
        found["window_ptr"] = stage.tensors["window"].float().reshape(-1).contiguous()
    fixed = {name: tensor.to(problem.device) for name, tensor in found.items()}
    scale = float(attrs["scale"])

    def call(x: Tensor) -> tuple[Tensor]:
        (x,) = require_values(stage, (x,))
        y = torch.empty((x.shape[0], *out.shape), dtype=torch.float32, device=x.device)
        if y.numel():
            launch((x.shape[0] * count,), y_ptr=y, x_ptr=x, scale=scale, **fixed)
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, n, inverse in (("real", 400, 0), ("complex", 1024, 0), ("to_real", 512, 1)):
        wanted = n // 2 + 1 if kind == "real" else n
        stage = contract.make_stage(kind, n, wanted, 4, inverse)
        Problem.of(stage, 1, "cuda")
        yield specialize(stage)


register_impl(Impl("fourier", "triton_products", "triton", 10, supports, prepare))
