"""The image of a convolution as ONNX has it: a plan has that over three dimensions as one over a list of rows.

Row (image * D + d) * H + h of a plan is row h of plane d. What steps of rows and of taps say is found again here; rows that no
such steps give are taken one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from rtaccel.kernels._common.geometry import Geometry


@dataclass(frozen=True)
class Image:
    """Of one Conv, by dimension, each a tuple. images: in a sample, each by itself. rows: [rows out, taps] of the rows that are
    read, -1 for padding, where no steps give them; the image is then one row, and each row of outputs an image."""

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    out: tuple[int, ...]
    images: int = 1
    rows: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class Steps:
    """A list of numbers outer * i + inner * j, for i below `outer_count` and then j below `inner_count`."""

    outer_count: int
    outer: int
    inner_count: int
    inner: int


def image_of(g: Geometry) -> Image:
    if g.out_rows is None:
        return Image(g.in_size, g.kernel, g.stride, g.padding, g.dilation, g.out_size)
    assert g.tap_rows is not None
    across = (g.in_size[1], g.kernel[1], g.stride[1], g.padding[1], g.dilation[1], g.out_size[1])
    found = None if g.padding[0] else _planes(g.out_rows, g.tap_rows, g.in_size[0])
    if found is not None:
        images, down = found
        return _image([(*d, a) for d, a in zip(down, across, strict=True)], images)
    height = g.in_size[0]
    places = [[start + tap - g.padding[0] for tap in g.tap_rows] for start in g.out_rows]
    rows = tuple(tuple(at if 0 <= at < height else -1 for at in row) for row in places)
    return _image([(a,) for a in across], len(rows), rows)


def _image(parts: list[tuple[int, ...]], images: int, rows: tuple[tuple[int, ...], ...] | None = None) -> Image:
    sizes, kernel, stride, padding, dilation, out = parts
    return Image(sizes, kernel, stride, padding, dilation, out, images, rows)


def _planes(starts: Sequence[int], taps: Sequence[int], height: int) -> tuple[int, tuple[tuple[int, ...], ...]] | None:
    """(images, (sizes, kernel, stride, padding, dilation, out) over planes and rows); over rows alone of one plane."""
    for images in _divisors(height):
        apart, each = height // images, len(starts) // images
        if len(starts) % images or any(s != starts[i % each] + i // each * apart for i, s in enumerate(starts)):
            continue
        for rows, out, read in product(_divisors(apart), _steps(starts[:each]), _steps(taps)):
            planes = apart // rows
            if (
                out.outer % rows == 0 and read.outer % rows == 0
                and (out.inner_count - 1) * out.inner + (read.inner_count - 1) * read.inner < rows
                and ((out.outer_count - 1) * out.outer + (read.outer_count - 1) * read.outer) // rows < planes
            ):  # fmt: skip
                found = (
                    (planes, rows), (read.outer_count, read.inner_count), (max(out.outer // rows, 1), max(out.inner, 1)),
                    (0, 0), (max(read.outer // rows, 1), max(read.inner, 1)), (out.outer_count, out.inner_count),
                )  # fmt: skip
                return images, tuple(pair[1:] if planes == 1 else pair for pair in found)
    return None


def _steps(numbers: Sequence[int]) -> Iterator[Steps]:
    """Every way to write a list as such steps; a step of a single one is 0."""
    for inner_count in _divisors(len(numbers)):
        outer_count = len(numbers) // inner_count
        inner = numbers[1] - numbers[0] if inner_count > 1 else 0
        outer = numbers[inner_count] - numbers[0] if outer_count > 1 else 0
        made = [outer * i + inner * j for i in range(outer_count) for j in range(inner_count)]
        if inner >= 0 and outer >= 0 and made == list(numbers):
            yield Steps(outer_count, outer, inner_count, inner)


def _divisors(n: int) -> list[int]:
    """The largest first."""
    return [d for d in range(n, 0, -1) if n % d == 0]
