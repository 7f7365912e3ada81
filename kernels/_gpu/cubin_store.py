"""Compiled kernels on disk: a folder of cubins with a JSON file beside each, which a wheel or an image can carry.

Written by `rtaccel build-kernels`, read when a kernel is bound. A kernel is found by a key over everything that its code
depends on (its source and that of its helpers, argument types, constants, options) and the card's compute capability: what
was built from other sources is not found, rather than launched. Needs neither triton nor CUDA.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtaccel.core.errors import FormatError
from rtaccel.core.process import whole_file

VERSION = 1


@dataclass(frozen=True)
class Cubin:
    """One kernel for one compute capability.

    name: of the specialization. entry: of the function in the cubin. parameters: (name, type) in the order of the
    function's own, which two pointers to scratch memory follow (0 for none). Pointers must be aligned to 16 bytes.
    cluster: blocks of a cluster, which the code says itself; 0 for none.
    """

    key: str
    capability: int
    name: str
    entry: str
    parameters: tuple[tuple[str, str], ...]
    num_warps: int
    shared_bytes: int
    global_scratch_bytes: int
    profile_scratch_bytes: int
    cooperative: bool
    built_with: str
    code: bytes
    cluster: int = 0


def key_of(kernel: str, signature: Mapping[str, str], constants: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """kernel: a hash of its source and of all it calls."""
    parts = [
        kernel,
        list(signature.items()),
        sorted((n, repr(v)) for n, v in constants.items()),
        sorted(options.items()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def fitting(capability: int) -> tuple[int, ...]:
    """Compute capabilities whose code runs on a card of this one (90 for 9.0), the best first. Code for 8.0 also runs on 8.6, 8.7
    and 8.9; from 9.0 on it is compiled for one architecture alone."""
    older = [c for c in (89, 87, 86, 80) if c < capability] if 80 <= capability < 90 else []
    return (capability, *older)


class CubinsInMemory:
    """Kernels that came with a file. strict: what is not among them is not to be compiled instead."""

    def __init__(self, source: str, cubins: Iterable[Cubin], strict: bool) -> None:
        self.source, self.strict = source, strict
        self._cubins = {(c.key, c.capability): c for c in cubins}

    def has_for(self, capability: int) -> bool:
        return any(c in fitting(capability) for _, c in self._cubins)

    def find(self, key: str, capability: int) -> Cubin | None:
        found = (self._cubins.get((key, candidate)) for candidate in fitting(capability))
        return next((cubin for cubin in found if cubin is not None), None)


class CubinStore:
    """The folder. Several processes may write to it: files are put in place whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _paths(self, key: str, capability: int) -> tuple[Path, Path]:
        stem = f"sm_{capability}-{key}"
        return self.folder / f"{stem}.cubin", self.folder / f"{stem}.json"

    def put(self, cubin: Cubin) -> None:
        whole_file.folder_of("kernels", self.folder)
        code, about = self._paths(cubin.key, cubin.capability)
        record = {**asdict(cubin), "version": VERSION, "sha256": hashlib.sha256(cubin.code).hexdigest()}
        del record["code"]
        for path, content in ((code, cubin.code), (about, json.dumps(record, indent=1).encode())):
            whole_file.write("kernels", path, content)

    def find(self, key: str, capability: int) -> Cubin | None:
        """The kernel for a card of this capability, or None. Raises FormatError for files that do not belong together."""
        for candidate in fitting(capability):
            code, about = self._paths(key, candidate)
            if code.is_file() and about.is_file():
                return self._read(code, about)
        return None

    def _read(self, code: Path, about: Path) -> Cubin:
        step = "Build it again: rtaccel build-kernels."
        try:
            record = json.loads(about.read_text())
            content = code.read_bytes()
            digest, version = record.pop("sha256"), record.pop("version")
            found = Cubin(**{**record, "parameters": tuple(tuple(p) for p in record["parameters"]), "code": content})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError("kernels", f"{about.name}: {error}", "a record that build-kernels wrote", step) from error
        if version != VERSION or hashlib.sha256(content).hexdigest() != digest:
            raise FormatError("kernels", f"{code.name}, which its record does not describe", "the cubin as built", step)
        return found

    def __iter__(self) -> Iterator[Cubin]:
        for about in sorted(self.folder.glob("*.json")):
            yield self._read(about.with_suffix(".cubin"), about)
