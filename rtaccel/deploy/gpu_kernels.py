"""GPU kernels in the file of a model: built where it is saved, found by key where it is compiled for a card.

A section of its own, `docs/reference/artifact.md` has its grammar. `rt.load` and C do not look at it: what they load runs on the
CPU.
Code for a card does what it likes there, so what is taken from a file is signed, or named as unsigned by whoever takes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from rtaccel.core.errors import BackendUnavailable, FormatError, UnsupportedProblem
from rtaccel.deploy import container
from rtaccel.deploy.verified import read_verified
from rtaccel.kernels._gpu.cubin_store import Cubin, CubinsInMemory

if TYPE_CHECKING:
    from rtaccel.runtime.compiled import CompiledModel

TENSOR = "kernels"
REFUSE, COMPILE = "refuse", "compile"
_MAGIC, _HEAD, _ALIGNMENT = b"RTACUBIN", struct.Struct("<8sQ"), 64
_ELF, _CUDA_MACHINE, _MACHINE_AT, _FLAGS_AT = b"\x7fELF", 190, 18, 48
MAX_KERNELS, MAX_THREADS, MAX_SHARED, MAX_CLUSTER = 4096, 1024, 227 << 10, 16
_NEXT = "Save it again: rt.save(..., kernels=...)."


def kernels_for(model: CompiledModel, architectures: Sequence[str]) -> list[Cubin]:
    """The kernels that `rt.compile(..., device="cuda")` binds for the model and batch of this one, or `rt.stream` for its stream.
    architectures: of cards, such as "sm_90".

    Compiles them. Raises FormatError for an architecture that there is not, UnsupportedProblem where a stream has no persistent
    kernel, BackendUnavailable without triton."""
    from rtaccel.runtime.gpu.ahead import build, kernels_of_program
    from rtaccel.runtime.stream import StreamModel

    rows, streamed = model._options.batch_size, isinstance(model, StreamModel)
    found = []
    for capability in capabilities_of("kernels", architectures):
        wanted = kernels_of_program(model._program, rows, capability, streamed)
        found += [build(kernel, capability) for kernel in wanted.values()]
    return found


def capabilities_of(argument: str, architectures: Sequence[str]) -> list[int]:
    """Compute capabilities, times ten, of the cards that an argument of `rt.save` names, each once. Raises FormatError for one
    that there is not, BackendUnavailable where nothing can be compiled for them."""
    from rtaccel.backends.triton import CHECKED_ARCHITECTURES
    from rtaccel.core import settings

    known = {f"sm_{c}": c for c in CHECKED_ARCHITECTURES}
    given = (architectures,) if isinstance(architectures, str) else tuple(architectures)
    bad = [a for a in given if a not in known]
    if bad or not given:
        raise FormatError("save", f"{argument}={list(given)}", f"some of {', '.join(known)}", "Name the cards.")
    if settings.find_module("triton") is None or settings.triton_interpret():
        raise BackendUnavailable(
            "save", f"{argument}= without a compiler for them", "triton, not interpreted", "pip install 'rtaccel[gpu]'"
        )
    return list(dict.fromkeys(known[a] for a in given))


# -- the section -------------------------------------------------------------------------------------------------------


def section_of(cubins: Iterable[Cubin]) -> bytes:
    """One for each key and architecture, in their order."""
    records, codes, at = [], b"", 0
    for cubin in sorted({(c.key, c.capability): c for c in cubins}.values(), key=lambda c: (c.key, c.capability)):
        record = asdict(cubin)
        code = record.pop("code")
        record |= {"at": at, "bytes": len(code), "sha256": hashlib.sha256(code).hexdigest()}
        records.append(record)
        codes += code + b"\0" * (-len(code) % _ALIGNMENT)
        at = len(codes)
    index = json.dumps(records, separators=(",", ":"), ensure_ascii=True).encode()
    index += b" " * (-(_HEAD.size + len(index)) % _ALIGNMENT)
    return _HEAD.pack(_MAGIC, len(index)) + index + codes


def kernels_in(section: bytes) -> list[Cubin]:
    """What a section holds, every field looked at. Raises FormatError for any other bytes."""
    if len(section) < _HEAD.size or not section.startswith(_MAGIC):
        raise _wrong("a section of kernels that begins otherwise")
    length = _HEAD.unpack_from(section)[1]
    start = _HEAD.size + length
    if start > len(section):
        raise _wrong(f"an index of {length} bytes in a section of {len(section)}")
    try:
        records = json.loads(section[_HEAD.size : start])
    except (ValueError, RecursionError) as error:
        raise _wrong(f"an index that cannot be read: {error}") from error
    if not isinstance(records, list) or len(records) > MAX_KERNELS:
        raise _wrong("an index that is no list of kernels")
    found = [_kernel(record, memoryview(section)[start:]) for record in records]
    if len({(c.key, c.capability) for c in found}) != len(found):
        raise _wrong("a kernel that is there twice")
    return found


def _kernel(record: Any, codes: memoryview) -> Cubin:
    names = {f.name for f in fields(Cubin)} - {"code"} | {"at", "bytes", "sha256"}
    if not isinstance(record, dict) or set(record) != names:
        raise _wrong("a record of other fields")
    for name, (low, most) in _NUMBERS.items():
        if type(record[name]) is not int or not low <= record[name] <= most:
            raise _wrong(f"{name} {record[name]!r:.40}")
    for name in ("key", "name", "entry", "built_with", "sha256"):
        if not isinstance(record[name], str) or not record[name].isprintable() or len(record[name]) > 400:
            raise _wrong(f"{name} {record[name]!r:.40}")
    if type(record["cooperative"]) is not bool:
        raise _wrong(f"cooperative {record['cooperative']!r:.40}")
    parameters = _parameters(record["parameters"])
    at, size = record["at"], record["bytes"]
    if at % _ALIGNMENT or at + size > len(codes):
        raise _wrong(f"code of {size} bytes at {at}, in {len(codes)}")
    code = bytes(codes[at : at + size])
    if hashlib.sha256(code).hexdigest() != record["sha256"]:
        raise _wrong(f"{record['name']}, whose code is not what was built")
    if not _is_for(code, record["capability"]):
        raise _wrong(f"{record['name']}, whose code is not for sm_{record['capability']}")
    about = {name: record[name] for name in names - {"at", "bytes", "sha256", "parameters"}}
    return Cubin(**about, parameters=parameters, code=code)


_NUMBERS = {
    "capability": (80, 200), "num_warps": (1, MAX_THREADS // 32), "shared_bytes": (0, MAX_SHARED),
    "global_scratch_bytes": (0, 0), "profile_scratch_bytes": (0, 0), "at": (0, 1 << 40), "bytes": (64, 1 << 30),
    "cluster": (0, MAX_CLUSTER),
}  # fmt: skip
"""What each may be; a kernel with scratch memory is never launched from a store."""


def _parameters(given: Any) -> tuple[tuple[str, str], ...]:
    from rtaccel.kernels._gpu.cubin_launch import SCALARS

    pairs = isinstance(given, list) and all(
        isinstance(p, list) and len(p) == 2 and all(isinstance(text, str) and len(text) < 100 for text in p)
        for p in given
    )
    if not pairs or not all(kind in SCALARS or kind.startswith("*") for _, kind in given) or len(given) > 256:
        raise _wrong("parameters that are none")
    return tuple((name, kind) for name, kind in given)


def _is_for(code: bytes, capability: int) -> bool:
    """Whether it is an ELF file of NVIDIA's for this compute capability, which its flags say in one of two bytes."""
    if len(code) < 64 or not code.startswith(_ELF):
        return False
    (machine,), (flags,) = struct.unpack_from("<H", code, _MACHINE_AT), struct.unpack_from("<I", code, _FLAGS_AT)
    return machine == _CUDA_MACHINE and capability in (flags & 0xFF, flags >> 8 & 0xFF)


def _wrong(got: str) -> FormatError:
    return FormatError("kernels", got, "kernels that rt.save wrote", _NEXT)


# -- where they are used -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedKernels:
    """Kernels of a file that models of this process find. architectures: that they are for. otherwise: what becomes of one that
    is missing."""

    source: str
    names: tuple[str, ...]
    architectures: tuple[str, ...]
    otherwise: str
    _memory: CubinsInMemory

    def close(self) -> None:
        """Models that are compiled from here on do not find them. What is loaded stays loaded."""
        from rtaccel.kernels._gpu import triton_launch

        triton_launch.forget(self._memory)

    def __enter__(self) -> LoadedKernels:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_kernels(
    path: str | os.PathLike[str] | bytes, *, verify_key: Any = None, unsigned: bool = False, otherwise: str = REFUSE
) -> LoadedKernels:
    """Kernels of a file that `rt.save(..., kernels=...)` wrote, for models that this process compiles for its GPU: no compiler is
    asked, neither Triton's nor NVRTC. A context manager too.

    path: of the file, or its bytes.
    verify_key: the ed25519 public key that must have signed it, as for `rt.load`.
    unsigned: take code for the card from a file that nobody signed. Only the digest is checked then.
    otherwise: "refuse": a kernel that is missing, or not for this card, raises BackendUnavailable where it would be needed.
        "compile": it is compiled, as without the file.

    A kernel is found by a hash of its source, types, constants and options, so one that was built from other sources is missing.

    Raises FormatError for a file that is not whole, not signed with the key, or without kernels; UnsupportedProblem without key
    and `unsigned`; BackendUnavailable without a GPU, and where no kernel is for this card and `otherwise` is "refuse".
    """
    from rtaccel.kernels._gpu import triton_launch

    if otherwise not in (REFUSE, COMPILE):
        raise FormatError("load_kernels", f"otherwise={otherwise!r}", f"{REFUSE!r} or {COMPILE!r}", "Choose one.")
    if verify_key is None and not unsigned:
        raise UnsupportedProblem(
            "load_kernels", "code for a card without a key", "verify_key=, the key that signed the file",
            "Sign it: rt.save(..., sign=). Or pass unsigned=True for a file of your own.",
        )  # fmt: skip
    source = f"{len(path)} bytes" if isinstance(path, bytes) else os.fspath(path)
    cubins = stored(path, verify_key)
    capability = _capability()
    memory = CubinsInMemory(source, cubins, strict=otherwise == REFUSE)
    names = tuple(dict.fromkeys(c.name for c in cubins))
    architectures = tuple(f"sm_{c}" for c in sorted({c.capability for c in cubins}))
    if otherwise == REFUSE and not memory.has_for(capability):
        raise BackendUnavailable(
            "load_kernels", f"{source} with kernels for {', '.join(architectures)}", f"some for this card, sm_{capability}",
            f"Save it with kernels=['sm_{capability}'], or pass otherwise='compile'.",
        )  # fmt: skip
    triton_launch.remember(memory)
    return LoadedKernels(source, names, architectures, otherwise, memory)


def stored(path: str | os.PathLike[str] | bytes, verify_key: Any = None) -> list[Cubin]:
    """The kernels of a file, checked, and put nowhere. Raises FormatError as `load_kernels`."""
    section = section_of_file("load_kernels", path, verify_key, TENSOR)
    if section is None:
        raise FormatError("load_kernels", "a file without kernels", "one with them", _NEXT)
    return kernels_in(section)


def section_of_file(op: str, path: str | os.PathLike[str] | bytes, verify_key: Any, name: str) -> bytes | None:
    """A tensor of a file whose digest, and signature where a key is given, were checked."""
    whole = read_verified(path, verify_key)
    if container.written_digest(op, whole) != container.digest(whole):
        raise FormatError(op, "bytes that are not those that were written", "a whole file", "Fetch it again.")
    return container.tensor(op, whole, name)


def _capability() -> int:
    import torch

    from rtaccel.kernels._gpu import cubin_launch

    reason = cubin_launch.unavailable()
    if reason is None and not torch.cuda.is_available():
        reason = "no CUDA device was found"
    if reason is not None:
        raise BackendUnavailable("load_kernels", reason, "a GPU, and cuda-core", "Load them where they run.")
    major, minor = torch.cuda.get_device_capability()
    return 10 * int(major) + int(minor)
