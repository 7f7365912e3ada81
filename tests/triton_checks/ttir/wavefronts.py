"""How many wavefronts a kernel's loads and stores take, from where TTGIR puts each element of a tile and from its address.

A multiprocessor answers a load of a warp in wavefronts: each reads one line of 128 bytes. A warp asks for 128 bytes at a time, so
a load of 16 bytes a lane has four phases of eight lanes. The least that a phase needs is its distinct bytes in lines. It takes as
many wavefronts as it has distinct lines: one for each lane, where lanes lie 128 bytes apart.

TTGIR is Triton's second representation: the operations of TTIR with a layout for each tile, which says the thread and the
register of every element. Addresses are computed as in traffic.py. An element that several threads would store is counted once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.triton_checks.ttir.parser import Operation, bytes_of, parse
from tests.triton_checks.ttir.traffic import Traffic, Unknown

LINE, WIDEST, LANES = 128, 16, 32
_SLICE = re.compile(r"#ttg\.slice<\{dim = (\d+), parent = (#[\w.]+)\}>")
_NAMED = re.compile(r", #[\w.]+(?=>)")
_BLOCKED = re.compile(
    r"^(#\w+) = #ttg\.blocked<\{sizePerThread = \[([\d, ]+)\], threadsPerWarp = \[([\d, ]+)\], "
    r"warpsPerCTA = \[([\d, ]+)\], order = \[([\d, ]+)\]",
    re.MULTILINE,
)

Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """A blocked layout, with the dimensions that slices took out of it, the outermost slice first."""

    size: tuple[int, ...]
    threads: tuple[int, ...]
    warps: tuple[int, ...]
    order: tuple[int, ...]
    without: tuple[int, ...] = ()

    def elements(self, shape: Sequence[int]) -> Array:
        """[warps, lanes, vectors, elements of a vector]: the number of each element in a dense tile. A vector lies along the
        dimension that is walked first."""
        whole = list(shape)
        for dim in self.without:
            whole.insert(dim, 1)
        size = [1 if d in self.without else s for d, s in enumerate(self.size)]
        tile = [s * t * w for s, t, w in zip(self.size, self.threads, self.warps)]
        repeats = [max(1, n // t) for n, t in zip(whole, tile)]
        strides = [int(np.prod(whole[d + 1 :])) for d in range(len(whole))]
        fast = self.order[0]
        rest = [d for d in range(len(whole)) if d != fast]
        vectors = [
            dict(zip([*rest, "again"], found))
            for found in product(*(range(size[d] * repeats[d]) for d in rest), range(repeats[fast]))
        ]
        made = np.zeros((int(np.prod(self.warps)), LANES, len(vectors), size[fast]), dtype=np.int64)
        for warp in range(made.shape[0]):
            for lane in range(LANES):
                first = [
                    (w * t + c) * s
                    for w, c, t, s in zip(
                        self._digits(warp, self.warps), self._digits(lane, self.threads), self.threads, self.size
                    )
                ]
                for v, vector in enumerate(vectors):
                    at = 0
                    for d in rest:
                        repeat, inner = divmod(vector[d], size[d])
                        at += (repeat * tile[d] + first[d] + inner) % whole[d] * strides[d]
                    along = vector["again"] * tile[fast] + first[fast] + np.arange(size[fast])
                    made[warp, lane, v] = at + along % whole[fast] * strides[fast]
        return made

    def _digits(self, number: int, sizes: Sequence[int]) -> list[int]:
        found = [0] * len(sizes)
        for d in self.order:
            number, found[d] = divmod(number, sizes[d])
        return found


@dataclass
class Counted:
    """Of one argument: wavefronts, what holds the same bytes, bytes a lane of its widest load, and lines that a program meets."""

    taken: int = 0
    least: int = 0
    widest: int = 0
    lines: int = 0

    @property
    def ratio(self) -> float:
        return self.taken / max(self.least, 1)


def layouts(ttgir: str) -> dict[str, Layout]:
    return {
        name: Layout(*(tuple(map(int, part.split(","))) for part in parts)) for name, *parts in _BLOCKED.findall(ttgir)
    }


def plain(ttgir: str, known: dict[str, Layout]) -> tuple[str, list[Layout | None]]:
    """(the text without layouts, the layout of each load and store in the order in which they stand)."""
    lines, found, made = [], [], dict(known)
    for line in ttgir.splitlines():
        while (slices := _SLICE.search(line)) is not None:
            dim, parent = int(slices[1]), slices[2]
            name = f"#slice.{len(made)}"
            if parent in made:
                outer = made[parent]
                kept = [d for d in range(len(outer.size)) if d not in outer.without]
                made[name] = Layout(
                    outer.size, outer.threads, outer.warps, outer.order, tuple(sorted((*outer.without, kept[dim])))
                )
            line = line[: slices.start()] + name + line[slices.end() :]
        if re.search(r"\btt\.(load|store) ", line):
            tagged = re.findall(r"tensor<[^>]*>?, (#[\w.]+)>", line)
            found.append(made.get(tagged[-1]) if tagged else None)
        lines.append(_NAMED.sub("", line))
    return "\n".join(lines), found


class Wavefronts(Traffic):
    """Runs programs; `loads` and `stores` are what they did, by argument."""

    def __init__(
        self, ttgir: str, grid: tuple[int, int, int], scalars: dict[str, Any], tables: Mapping[str, Array] | None = None
    ) -> None:
        """tables: of arguments whose numbers say what is read next."""
        text, self._layouts = plain(ttgir, layouts(ttgir))
        super().__init__(parse(text), grid, scalars, tables or {})
        self.loads: dict[str, Counted] = {}
        self.stores: dict[str, Counted] = {}
        self._met: dict[tuple[int, str, str], set[int]] = {}
        self._sizes = {name: bytes_of(kind.pointee) for name, kind in self._pointers()}
        self._where = {id(op): i for i, op in enumerate(_memory(self.function.body.operations))}
        assert len(self._where) == len(self._layouts)

    def _pointers(self) -> Iterator[tuple[str, Any]]:
        for name, kind in self.function.parameters.items():
            if kind.element.startswith("!tt.ptr"):
                yield name.removeprefix("%"), kind

    def of_program(self, program: tuple[int, int, int]) -> None:
        self.of, self.program, self.number = dict(self.start), program, self.number + 1
        self.block(self.function.body)

    def single(self, op: Operation) -> Any:
        if op.name == "ttg.convert_layout":
            return self.of.get(op.operands[0])
        return super().single(op)

    def move(self, pointer: Any, mask: Any, op: Operation) -> None:
        super().move(pointer, mask, op)
        layout = self._layouts[self._where[id(op)]] if id(op) in self._where else None  # an atomic has none here
        if layout is None or isinstance(pointer.offset, Unknown):
            return
        offset = np.asarray(pointer.offset)
        shape = offset.shape
        there = np.ones(shape, bool) if isinstance(mask, Unknown) else np.broadcast_to(np.asarray(mask, bool), shape)
        size = int(self._sizes[pointer.argument])
        numbers = layout.elements(shape)
        at, active = offset.ravel()[numbers] * size, there.ravel()[numbers]
        if op.name == "tt.store":  # by the first of the threads that have an element
            _, first = np.unique(numbers.ravel(), return_index=True)
            once = np.zeros(numbers.size, bool)
            once[first] = True
            active = active & once.reshape(numbers.shape)
        width = _vector(at, active, size)
        at = at.reshape(*at.shape[:3], -1, width)[..., 0]  # [warps, lanes, vectors, instructions]
        active = active.reshape(*active.shape[:3], -1, width)[..., 0]
        counted = (self.stores if op.name == "tt.store" else self.loads).setdefault(pointer.argument, Counted())
        counted.widest = max(counted.widest, width * size)
        lanes = min(LANES, LINE // (width * size))
        known = self._met.setdefault((self.number, op.name, pointer.argument), set())
        before = len(known)
        known.update(np.unique(at[active] // LINE).tolist())
        counted.lines += len(known) - before
        for warp, vector, i in product(range(at.shape[0]), range(at.shape[2]), range(at.shape[3])):
            for lane in range(0, LANES, lanes):
                asked = at[warp, lane : lane + lanes, vector, i][active[warp, lane : lane + lanes, vector, i]]
                if asked.size:
                    counted.taken += np.unique(asked // LINE).size
                    counted.least += -(-np.unique(asked).size * width * size // LINE)


def _memory(operations: Sequence[Operation]) -> Iterator[Operation]:
    for op in operations:
        if op.name in ("tt.load", "tt.store"):
            yield op
        for region in op.regions:
            yield from _memory(region.operations)


def _vector(at: Array, active: Array, size: int) -> int:
    """Elements of one instruction: neighbors in memory and aligned, for all lanes."""
    width = 1
    while 2 * width * size <= WIDEST and at.shape[3] % (2 * width) == 0:
        wider = at.reshape(*at.shape[:3], -1, 2 * width)
        on = active.reshape(wider.shape)
        near = (wider - wider[..., :1] == size * np.arange(2 * width)) & (wider[..., :1] % (2 * width * size) == 0)
        if not (near | ~on).all() or (on.any(-1) != on.all(-1)).any():
            break
        width *= 2
    return width
