"""Calls rta_gpu_* of a library as a program in C does, without torch: commands as JSON from stdin, results as JSON lines.

python c_calls.py librtaccel.so < commands.json
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

Floats = ctypes.POINTER(ctypes.c_float)


class About(ctypes.Structure):
    _fields_ = (
        ("inputs", ctypes.c_int64), ("outputs", ctypes.c_int64), ("blocks", ctypes.c_int), ("capability", ctypes.c_int),
        ("streams", ctypes.c_int), ("kernel", ctypes.c_char_p),
    )  # fmt: skip


def library(path: str) -> Any:
    lib = ctypes.CDLL(path)
    lib.rta_error.restype = ctypes.c_char_p
    lib.rta_gpu_open.restype = lib.rta_gpu_from_memory.restype = ctypes.c_void_p
    lib.rta_gpu_open.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
    lib.rta_gpu_code.argtypes = (ctypes.c_char_p,)
    for name in ("close", "start", "reset"):
        getattr(lib, f"rta_gpu_{name}").argtypes = (ctypes.c_void_p,)
    lib.rta_gpu_step.argtypes = (ctypes.c_void_p, Floats, Floats, ctypes.c_int64)
    lib.rta_gpu_describe.argtypes = (ctypes.c_void_p, ctypes.POINTER(About))
    lib.rta_gpu_state_bytes.restype = ctypes.c_size_t
    lib.rta_gpu_state_bytes.argtypes = (ctypes.c_void_p,)
    lib.rta_gpu_save_state.argtypes = lib.rta_gpu_load_state.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    lib.rta_gpu_swap.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p)
    lib.rta_gpu_stored.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int), ctypes.c_int)
    return lib


class Calls:
    """Each gives what it found; a failure is [code, text]."""

    def __init__(self, lib: Any) -> None:
        self._lib, self._open = lib, dict[str, int]()

    def _failure(self) -> list[Any]:
        return [self._lib.rta_error_code(), self._lib.rta_error().decode()]

    def open(self, name: str, path: str, key: str | None = None, device: int = 0) -> Any:
        found = self._lib.rta_gpu_open(path.encode(), None if key is None else bytes.fromhex(key), device)
        if not found:
            return self._failure()
        self._open[name], about = found, About()
        self._lib.rta_gpu_describe(found, about)
        return {field: getattr(about, field) for field, _ in About._fields_[:-1]} | {"kernel": about.kernel.decode()}

    def code(self, folder: str | None) -> Any:
        return self._failure() if self._lib.rta_gpu_code(None if folder is None else folder.encode()) else "taken"

    def start(self, name: str) -> Any:
        return self._failure() if self._lib.rta_gpu_start(self._open[name]) else "running"

    def step(self, name: str, x: list[float], timeout_ns: int = 20_000_000_000) -> Any:
        about = About()
        self._lib.rta_gpu_describe(self._open[name], about)
        given, y = (ctypes.c_float * about.inputs)(*x), (ctypes.c_float * about.outputs)()
        status = self._lib.rta_gpu_step(self._open[name], given, y, timeout_ns)
        return self._failure() if status else bytes(y).hex()

    def reset(self, name: str) -> Any:
        self._lib.rta_gpu_reset(self._open[name])

    def save(self, name: str) -> Any:
        to = (ctypes.c_char * self._lib.rta_gpu_state_bytes(self._open[name]))()
        return self._failure() if self._lib.rta_gpu_save_state(self._open[name], to) else bytes(to).hex()

    def load(self, name: str, state: str) -> Any:
        return self._failure() if self._lib.rta_gpu_load_state(self._open[name], bytes.fromhex(state)) else "loaded"

    def pass_on(self, name: str, other: str) -> Any:
        """What one remembers is loaded into another."""
        return self.load(other, self.save(name))

    def swap(self, name: str, path: str, key: str | None = None) -> Any:
        given = None if key is None else bytes.fromhex(key)
        return self._failure() if self._lib.rta_gpu_swap(self._open[name], path.encode(), given) else "swapped"

    def close(self, name: str) -> Any:
        self._lib.rta_gpu_close(self._open.pop(name))

    def stored(self, path: str) -> Any:
        with open(path, "rb") as file:
            content = file.read()
        found = (ctypes.c_int * 8)()
        count = self._lib.rta_gpu_stored(content, len(content), found, 8)
        return self._failure() if count < 0 else list(found[:count])


if __name__ == "__main__":
    calls = Calls(library(sys.argv[1]))
    for command, *arguments in json.load(sys.stdin):
        print(json.dumps(getattr(calls, command)(*arguments)), flush=True)
