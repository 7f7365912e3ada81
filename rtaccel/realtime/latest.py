"""`Latest`: the freshest value of a stream of values, without waiting on either side."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, RtaccelError, UnsupportedProblem
from rtaccel.realtime import refusals
from rtaccel.realtime.slot_values import DTYPES, value_of

READERS = {"one": 1, "many": 8}
NAN = {"pass": 0, "refuse": 1}


class _Buffer:
    """A buffer of a slot as NumPy takes it, which keeps the memory alive."""

    def __init__(self, memory: Any, address: int, shape: tuple[int, ...], dtype: str) -> None:
        self.memory = memory
        self.__array_interface__ = {
            "data": (address, True),
            "shape": shape,
            "typestr": np.dtype(DTYPES[dtype]).str,
            "version": 3,
        }


class Latest:
    """A slot for the freshest value: `put` leaves one, `get` takes the newest whole one. Neither waits, and a value is never torn
    and never older than the one before.

    shape: of a value, () for a single number.
    dtype: float32, float64, float16, bfloat16, int8, int16, int32, int64, uint8 or bool.
    name: in POSIX shared memory under this name, for other processes and for C; None: in this process.
    readers: "one" (a triple buffer; `get` is one atomic addition, its value a view) or "many" (eight buffers in turn; a `get`
        copies and looks whether it was overtaken, 64 times at most, and then gives what it had).
    nan: "pass", or "refuse": a put with a NaN raises.

    One writer, and one reader where readers="one": the first put and the first get of a slot take that side, until `close`
    or the end of the process. A second one is refused while the first lives. A writer may die at any instruction:
    readers keep the last whole value, whose age grows, and the next writer goes on with its numbers.
    Times are nanoseconds of `time.monotonic_ns()`. The layout is that of rta_latest.h.

    Example:
        >>> import numpy as np, rtaccel as rt
        >>> slot = rt.Latest((3,))
        >>> slot.put(np.array([1, 2, 3], dtype=np.float32))
        1
        >>> got = slot.get()
        >>> got.status, got.seq, got.value.tolist()
        ('new', 1, [1.0, 2.0, 3.0])
        >>> slot.get().status
        'old'

    Raises FormatError for a name, dtype, shape or option that there is not, and for a name under which something else lies.
    """

    name: str | None
    shape: tuple[int, ...]
    dtype: str

    def __new__(cls, *args: Any, **options: Any) -> Latest:
        return native.LatestSlot.__new__(_Slot)

    def __init__(
        self,
        shape: int | Iterable[int] = (),
        dtype: Any = "float32",
        name: str | None = None,
        *,
        readers: str = "one",
        nan: str = "pass",
    ) -> None:
        sizes = _sizes(shape)
        kind = str(dtype).removeprefix("torch.") if not isinstance(dtype, (type, np.dtype)) else np.dtype(dtype).name
        if kind not in DTYPES:
            raise FormatError("Latest", f"dtype {dtype!r}", ", ".join(DTYPES), "Convert the values.")
        for option, value, known in (("readers", readers, READERS), ("nan", nan, NAN)):
            if not isinstance(value, str) or value not in known:
                raise FormatError("Latest", f"{option}={value!r}", " or ".join(map(repr, known)), "Pass one of them.")
        if name is not None:
            _check_name(name)
        try:
            native.LatestSlot.__init__(self, name, kind, sizes, READERS[readers], NAN[nan])
        except ValueError as error:
            raise _not_made(name, error) from None
        _finish(self, name)

    @staticmethod
    def open(name: str) -> Latest:
        """The slot that lies under a name, with the shape and dtype it was made with. Raises FormatError where there is none."""
        _check_name(name)
        made: Any = native.LatestSlot.__new__(_Slot)
        try:
            native.LatestSlot.__init__(made, name)
        except ValueError as error:
            raise _not_made(name, error) from None
        _finish(made, name)
        return made

    def put(self, x: Any, stamp_ns: int | None = None) -> int:
        """Leaves a value, and gives its number: 1, 2, 3, ... 0: it was dropped, as its stamp is before that of the value there.

        x: of the slot's shape and dtype, float32 [N] for example: a NumPy array, a torch tensor of the CPU, a number, or what
            exports DLPack or the buffer protocol. It is copied.
        stamp_ns: when it was measured (not when it arrived), in `time.monotonic_ns()`; None: now.

        Stamps of a clock that was set back are taken, and counted (`clock_back`).
        Raises ShapeError for another shape or dtype, FormatError for a stamp after now and for a NaN where those are
        refused, UnsupportedProblem where the slot has another writer; the value there is then as before.
        """
        return _put(self, x, stamp_ns, refusals.BAD)

    def get(self) -> Any:
        """The newest value as a Sample: value (NumPy, read-only), stamp_ns, seq, age_us (when asked), status, origin.

        status: "new"; "old" where the value was taken before; "none" before the first one, with value None.
        The value is a view until the next get (readers="many": an array of its own). `tensor_of` makes it a torch tensor.
        Raises UnsupportedProblem where the slot has another reader.
        """
        return _refused_get(self, refusals.TAKEN)

    def close(self) -> None:
        """Gives up both sides. Views that were taken stay valid; shared memory stays until `unlink`."""

    @property
    def dropped(self) -> int:
        """Values that came after a newer one, and were dropped."""
        return int(self.refused[0])  # type: ignore[attr-defined]

    @property
    def clock_back(self) -> int:
        """Values that were taken with an earlier stamp, as the clock had been set back."""
        return int(self.refused[1])  # type: ignore[attr-defined]

    @property
    def readers(self) -> str:
        """ "one" or "many"."""
        return next(k for k, v in READERS.items() if v == self.slot_readers)  # type: ignore[attr-defined]

    @property
    def nan(self) -> str:
        """ "pass" or "refuse"."""
        return next(k for k, v in NAN.items() if v == self.slot_nan)  # type: ignore[attr-defined]

    def unlink(self) -> None:
        """Takes the name away; processes that have the slot keep it. Raises FormatError for a slot without a name, or gone."""
        if self.name is None:
            raise FormatError("unlink", "a slot of this process", "one with a name", "Nothing is to be done.")
        if native.latest_unlink(self.name) != 0:
            raise FormatError("unlink", native.latest_error(), "a name that is there", "It was unlinked before.")

    def __enter__(self) -> Latest:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        of = "" if self.name is None else f", name={self.name!r}"
        many = ", readers='many'" if self.readers == "many" else ""
        return f"Latest({self.shape}, {self.dtype!r}{of}{many})"

    def __reduce__(self) -> Any:
        if self.name is None:
            raise UnsupportedProblem("pickle", "a slot of this process", "one with a name", "Pass name=.")
        return Latest.open, (self.name,)


class _Slot(native.LatestSlot, Latest):
    """Its put, get and close are the native ones, which come to those above where something is out of the ordinary."""

    __init__ = Latest.__init__
    __repr__ = Latest.__repr__


def tensor_of(sample: Any) -> Any:
    """The value of a sample as a torch tensor of the same memory, to be read only, as long as the sample's value.

    sample: what `Latest.get` gave. Raises FormatError for one without a value.
    """
    import torch

    value = sample.value
    if value is None:
        raise FormatError("tensor_of", "a slot without a value", "status 'new' or 'old'", "Look at the status first.")
    base = value if value.flags.writeable else _writable(value)
    tensor = torch.from_numpy(base)
    return tensor.view(torch.bfloat16) if value.dtype == np.uint16 else tensor


def _writable(value: Any) -> Any:
    """torch warns at read-only arrays; this is the same memory without the mark."""
    face = dict(value.__array_interface__)
    face["data"] = (face["data"][0], False)

    class Face:
        __array_interface__ = face
        kept = value

    return np.asarray(Face())


def _sizes(shape: int | Iterable[int]) -> list[int]:
    try:
        sizes = [shape] if isinstance(shape, (int, np.integer)) else list(shape)
        whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in sizes)
        if whole and len(sizes) <= 8 and math.prod(map(int, sizes)) < 2**40:
            return [int(n) for n in sizes]
    except TypeError:
        pass
    raise FormatError(
        "Latest",
        f"shape {shape!r}",
        "at most 8 sizes of 1 or more, fewer than 2**40 numbers",
        "Pass the shape of one value.",
    )


def _check_name(name: Any) -> None:
    """Raises FormatError for what no name in shared memory is; which of the others are taken is said where one is made."""
    if not isinstance(name, str) or "\0" in name or not name.isprintable():
        raise FormatError("Latest", f"name={name!r:.80}", "a text that can be printed", "Pass a name like 'imu'.")


def _not_made(name: str | None, error: ValueError) -> RtaccelError:
    return FormatError(
        "Latest",
        f"{'slot' if name is None else f'name {name!r}'}: {error}",
        "memory for such a slot",
        "Take another name, or unlink what lies there.",
    )


def _finish(slot: Any, name: str | None) -> None:
    slot.name, slot.shape, slot.dtype = name, tuple(slot.slot_shape), slot.slot_dtype
    memory = slot.memory()
    views = [np.asarray(_Buffer(memory, at, slot.shape, slot.dtype)) for at in slot.buffers()]
    slot.prepare(views, _put, _refused_get)


def _refused_get(slot: Any, code: int) -> Any:
    refusals.refuse_side("get", "reader", repr(slot), slot.closed)


def _put(slot: Any, x: Any, stamp_ns: int | None, code: int) -> int:
    """What the native put did not take at once. code: what it said."""
    if slot.closed:
        refusals.refuse_side("put", "writer", "", True)
    if stamp_ns is not None and (
        not isinstance(stamp_ns, (int, np.integer)) or isinstance(stamp_ns, bool) or not 1 <= stamp_ns < 2**63
    ):
        raise FormatError(
            "put", f"stamp_ns={stamp_ns!r:.80}", "nanoseconds of time.monotonic_ns()", "Pass a whole number."
        )
    if code == refusals.BAD:
        code = slot.put_directly(value_of(slot, x), stamp_ns or 0)
    if code > 0:
        return code
    if code == refusals.OLDER:
        return 0
    if code == refusals.FUTURE:
        refusals.refuse_stamp("put", int(stamp_ns or 0), time.monotonic_ns())
    if code == refusals.HAS_NAN:
        refusals.refuse_nan("put", repr(slot))
    if code == refusals.TAKEN:
        refusals.refuse_side("put", "writer", repr(slot), False)
    raise FormatError("put", native.latest_error(), "a value and a stamp", "See the guide.")
