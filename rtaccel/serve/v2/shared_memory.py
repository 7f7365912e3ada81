"""System shared memory of the protocol: tensors that lie in objects of POSIX shared memory of this machine, not in messages.

An object is read and written through its descriptor and is never mapped. So a client that makes it shorter while it is in use
gets an error for its request; a mapping would end the server with a bus error.
"""

from __future__ import annotations

import math
import os
import re
import stat
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.serve.v2.refusals import Full, UnknownRegion
from rtaccel.serve.v2.settings import Settings
from rtaccel.serve.v2.tensor_spec import TensorSpec

FOLDER = "/dev/shm"
"""Where Linux has the objects of shm_open."""
_KEY = re.compile(r"/?([A-Za-z0-9_.+=,@%:-]{1,200})")
_PARAMETERS = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


class Slice(NamedTuple):
    """Where a tensor lies: `size` bytes from `offset` of a region."""

    region: str
    offset: int
    size: int

    @classmethod
    def of(cls, tensor: str, given: Mapping[str, Any]) -> Slice | None:
        """What a tensor's parameters say; None where they name no region. Raises FormatError."""
        region, size, offset = (given.get(key) for key in _PARAMETERS)  # of whatever type a client sends
        if region is None:
            return None
        offset = 0 if offset is None else offset
        if not (isinstance(region, str) and isinstance(size, int) and _is_size(size) and _is_size(offset)):
            got = f"{region!r}, {size!r} bytes from {offset!r} as the region of {tensor!r}"
            raise FormatError(
                "infer", got[:160], "a text, and whole numbers of bytes", f"Send {', '.join(_PARAMETERS)}."
            )
        return cls(region, offset, size)

    @property
    def parameters(self) -> dict[str, Any]:
        """As an answer has them."""
        return dict(zip(_PARAMETERS, (self.region, self.size, self.offset)))


class Region:
    """Bytes from..from+size of an object, open. It is closed when the last request lets go of it."""

    __slots__ = ("__weakref__", "_file", "key", "name", "offset", "size")

    def __init__(self, name: str, key: str, offset: int, size: int, file: int) -> None:
        self.name, self.key, self.offset, self.size, self._file = name, key, offset, size, file
        weakref.finalize(self, os.close, file)

    def read(self, place: Slice, port: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
        """A copy of the tensor that lies there. Raises FormatError."""
        expected = math.prod(shape) * port.dtype.itemsize
        if expected != place.size:  # before memory is taken for it
            raise FormatError(
                "infer", f"{place.size} bytes of region {self.name!r} for input {port.name!r}",
                f"{expected}, those of {port.datatype}{list(shape)}", "Name all of the tensor, and nothing more.",
            )  # fmt: skip
        made = np.empty(shape, port.dtype)
        if made.nbytes and os.preadv(self._file, [made.reshape(-1).data], self.offset + place.offset) != made.nbytes:
            raise self._shorter()
        return port.checked(made)

    def write(self, place: Slice, tensor: np.ndarray) -> None:
        """Raises FormatError where a tensor does not fit, or the object became shorter."""
        self.check(place, tensor.nbytes)
        data = np.ascontiguousarray(tensor).reshape(-1)
        if data.nbytes and os.pwritev(self._file, [data.data], self.offset + place.offset) != data.nbytes:
            raise self._shorter()

    def check(self, place: Slice, size: int) -> None:
        """Raises FormatError where a tensor of so many bytes cannot be written there."""
        if size > place.size:
            got = f"{place.size} bytes of region {self.name!r} for a tensor of {size}"
            raise FormatError("infer", got, f"at least {size}", "Name a larger place.")
        if os.fstat(self._file).st_size < self.offset + place.offset + size:
            raise self._shorter()

    def _shorter(self) -> FormatError:
        got = f"region {self.name!r}, whose object {self.key!r} became shorter"
        return FormatError("infer", got, f"{self.offset + self.size} bytes", "Register it again.")


Places = tuple[tuple[Region, Slice] | None, ...]
"""For each output that is wanted: the region it is to be written to and where there, or None. Empty where all are sent."""


class Regions:
    """The regions of a server, by name. settings.shared_memory: how many there may be; 0: none, and none can be named."""

    def __init__(self, settings: Settings) -> None:
        self._most, self._most_bytes = settings.shared_memory, settings.shared_memory_bytes
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: Any, offset: Any, size: Any) -> None:
        """Opens an object. Raises UnsupportedProblem where the server does not allow it, Full, and FormatError for what does not
        fit; nothing changes then."""
        if not self._most:
            raise UnsupportedProblem("register", "a region of shared memory", "a server that allows it",
                                     "Start it with --shared-memory.")  # fmt: skip
        found = _KEY.fullmatch(key) if isinstance(key, str) else None
        if not isinstance(name, str) or not 0 < len(name) <= 128 or found is None or set(found[1]) == {"."}:
            got = f"region {str(name)[:40]!r} with the key {str(key)[:40]!r}"
            raise FormatError("register", got, "a name, and the key of an object as shm_open has it", "Pass both.")
        if not _is_size(offset) or not _is_size(size) or size == 0:
            got = f"{size!r} bytes from {offset!r} of {key!r}"
            raise FormatError("register", got[:120], "whole numbers, at least one byte", "Pass offset and byte_size.")
        if name in self._regions:
            raise FormatError("register", f"a second region {name!r}", "a name for each", "Unregister the other one.")
        used = sum(region.size for region in self._regions.values())
        if len(self._regions) >= self._most or used + size > self._most_bytes:
            got = f"one more region, of {size:,} bytes, beside {len(self._regions)} of {used:,}"
            most = f"{self._most} regions of {self._most_bytes:,} bytes together"
            raise Full("register", got, f"at most {most}", "Unregister others.")
        self._regions[name] = Region(name, key, offset, size, _opened(found[1], offset + size))

    def unregister(self, name: str = "") -> None:
        """Forgets a region, or all of them. One that there is not is none already."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """Of a region or all: name, key, offset, byte_size. Raises UnknownRegion."""
        listed = [self._get(name)] if name else list(self._regions.values())
        return [{"name": r.name, "key": r.key, "offset": r.offset, "byte_size": r.size} for r in listed]

    def at(self, place: Slice) -> Region:
        """The region in which a place is wholly. Raises UnknownRegion, FormatError."""
        region = self._get(place.region)
        if place.offset + place.size > region.size:
            got = f"{place.size} bytes from {place.offset} of region {region.name!r}"
            raise FormatError("infer", got, f"within its {region.size}", "Mend shared_memory_offset and byte_size.")
        return region

    def _get(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            known = ", ".join(sorted(self._regions)) or (
                "none" if self._most else "none, as --shared-memory is not set"
            )
            raise UnknownRegion("shared memory", f"region {name[:80]!r}", f"one of: {known}", "Register it first.")
        return region


def places_of(
    ports: Sequence[TensorSpec], rows: int | None, slices: Sequence[Slice | None], regions: Regions
) -> Places:
    """Where outputs are to be written. rows: their samples, where all of them have one dimension for these. Raises typed errors
    where one would not fit, as far as its size is known before the call."""
    made: list[tuple[Region, Slice] | None] = []
    for port, place in zip(ports, slices):
        region = None if place is None else regions.at(place)
        if region is not None and place is not None:
            region.check(place, port.nbytes(rows) or 0)
            made.append((region, place))
        else:
            made.append(None)
    return tuple(made)


def write(places: Places, outs: Sequence[np.ndarray]) -> tuple[Slice | None, ...]:
    """Writes those outputs that have a place. For each: where it lies, or None for those that are to be sent."""
    if not places:
        return (None,) * len(outs)
    made: list[Slice | None] = []
    for given, tensor in zip(places, outs):
        if given is None:
            made.append(None)
            continue
        region, place = given
        region.write(place, tensor)
        made.append(place._replace(size=tensor.nbytes))
    return tuple(made)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _opened(name: str, least: int) -> int:
    """A descriptor of an object of at least so many bytes. Raises FormatError, UnsupportedProblem."""
    if not os.path.isdir(FOLDER):
        raise UnsupportedProblem("register", f"a machine without {FOLDER}", "Linux", "Send tensors in messages.")
    try:
        file = os.open(f"{FOLDER}/{name}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise FormatError("register", f"object {name!r} ({error.strerror})", "one that this server may read and write",
                          "Make it before it is registered.") from None  # fmt: skip
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_size < least:
        os.close(file)
        got = f"object {name!r} of {found.st_size:,} bytes" if stat.S_ISREG(found.st_mode) else f"{name!r}, no object"
        raise FormatError("register", got, f"at least {least:,}, offset and byte_size", "Register no more than it has.")
    return file
