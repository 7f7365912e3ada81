"""The card's memory as the host sees it, by GDRCopy (libgdrapi and its kernel module gdrdrv): stores go straight over the link.

Optional: nothing here is asked for unless RTACCEL_MAILBOX is "gdr". The library is found by its name and called by ctypes. A
region lives as long as the process: to free it would wait for every persistent kernel.
"""

from __future__ import annotations

import ctypes
import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from rtaccel.backends import cuda_driver
from rtaccel.core.errors import BackendUnavailable

LIBRARY = "libgdrapi.so.2"
PAGE = 64 << 10
"""Of a card's memory: a mapping has whole ones."""

NEXT = "Install GDRCopy and load its module (modprobe gdrdrv), or unset RTACCEL_MAILBOX."


@dataclass(frozen=True)
class Region:
    """The same bytes twice. host: where the host writes them, write-combining: it reads them slowly. card: where kernels do."""

    host: int
    card: int
    bytes: int


class _Handle(ctypes.Structure):
    _fields_ = (("h", ctypes.c_ulong),)


class _Info(ctypes.Structure):
    """The first field of the library's record, and room for what later versions put behind it."""

    _fields_ = (("va", ctypes.c_uint64), ("rest", ctypes.c_uint64 * 15))


class Gdr:
    """An open GDRCopy. Raises BackendUnavailable where there is none."""

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._lib = ctypes.CDLL(library)
            self._lib.gdr_open.restype = ctypes.c_void_p
            self._lib.gdr_pin_buffer.argtypes = (
                ctypes.c_void_p, ctypes.c_ulong, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint32, ctypes.POINTER(_Handle),
            )  # fmt: skip
            self._lib.gdr_map.argtypes = (ctypes.c_void_p, _Handle, ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t)
            self._lib.gdr_get_info.argtypes = (ctypes.c_void_p, _Handle, ctypes.POINTER(_Info))
        except (OSError, AttributeError) as error:  # not there, or another library of this name
            raise BackendUnavailable("gdr", f"{library}: {error}", "the library of GDRCopy", NEXT) from error
        self._opened = self._lib.gdr_open()
        if not self._opened:
            raise BackendUnavailable("gdr", "gdr_open gave nothing", "the kernel module gdrdrv (/dev/gdrdrv)", NEXT)

    def region(self, card: int, size: int) -> Region:
        """Maps memory of the card, whole pages of it."""
        handle, address, info = _Handle(), ctypes.c_void_p(), _Info()
        self._call("gdr_pin_buffer", self._opened, card, size, 0, 0, ctypes.byref(handle))
        self._call("gdr_map", self._opened, handle, ctypes.byref(address), size)
        self._call("gdr_get_info", self._opened, handle, ctypes.byref(info))
        return Region(int(address.value or 0) + card - info.va, card, size)  # the mapping begins with a page

    def _call(self, name: str, *arguments: object) -> None:
        function: Callable[..., int] = getattr(self._lib, name)
        status = function(*arguments)
        if status:
            said = errno.errorcode.get(status, f"error {status}")
            raise BackendUnavailable("gdr", f"{name}: {said}", "memory of the card that the host may map", NEXT)


@cache
def opened() -> Gdr:
    """That of this process."""
    return Gdr()


_lock = threading.Lock()
_spare: dict[int, list[Region]] = {}


def take(size: int) -> Region:
    """A region of at least so many bytes. Raises BackendUnavailable where there is no GDRCopy, or the card gives none."""
    pages = -(-size // PAGE)
    with _lock:
        if _spare.get(pages):
            return _spare[pages].pop()
    gdr = opened()
    # A page more, as an allocation begins anywhere.
    allocated = cuda_driver.driver().allocate((pages + 1) * PAGE)
    return gdr.region(-(-allocated // PAGE) * PAGE, pages * PAGE)


def give_back(region: Region) -> None:
    """For the next one that wants as much. No kernel may look at it any more."""
    with _lock:
        _spare.setdefault(region.bytes // PAGE, []).append(region)
