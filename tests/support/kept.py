"""What compilers make of the same source, kept between runs of the tests: in $RTACCEL_TEST_CACHE, else in build/test-cache.

A file is found by a hash of all that it was made from, so a change of a source, an option or a compiler makes it anew. Several
processes may make the same file at once: each makes its own, and puts it in place whole. `make clean` removes the folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtaccel.kernels._gpu.cubin_store import Cubin
    from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel
    from rtaccel.kernels._gpu.triton_aot import Footprint
    from rtaccel.kernels._gpu.triton_spec import Specialisation

ROOT = Path(__file__).parents[2]


def folder(name: str) -> Path:
    """Of one kind of files. It exists."""
    found = Path(os.environ.get("RTACCEL_TEST_CACHE") or ROOT / "build" / "test-cache").resolve() / name
    found.mkdir(parents=True, exist_ok=True)
    return found


def key(*parts: str | bytes | Iterable[str]) -> str:
    """A hash of what a file is made from. A part is a text, bytes, or texts of which the order matters."""
    digest = hashlib.sha256()
    for part in parts:
        content = (
            part if isinstance(part, bytes) else json.dumps(part if isinstance(part, str) else list(part)).encode()
        )
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:40]


def file(kind: str, name: str, make: Callable[[Path], object]) -> Path:
    """The file of this name, which carries the hash. make(path): writes it where it is not there yet."""
    found = folder(kind) / name
    if not found.exists():
        with tempfile.TemporaryDirectory(dir=found.parent, prefix=".part-") as part:
            make(Path(part) / name)
            with suppress(OSError):  # a folder that another process put there in the meantime
                (Path(part) / name).replace(found)
        assert found.exists(), found
    return found


@functools.cache
def compiler(command: str) -> str:
    """What a C or C++ compiler says of itself."""
    return subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout


def text_of(*paths: Path) -> list[str]:
    return [text for path in paths for text in (path.name, path.read_text())]


def compiled_by(command: list[str], sources: Iterable[Path], name: str, more: str = "") -> Path:
    """The output of a C or C++ compiler. command: without -o. sources: the files that are read, headers too; those of the system
    belong to the compiler. more: a hash of what else is read. Fails with what the compiler says."""

    def make(path: Path) -> None:
        done = subprocess.run([*command, "-o", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    stem, dot, suffix = name.partition(".")
    of = key(command, compiler(command[0]), text_of(*sources), more)
    return file("host", f"{stem}-{of}{dot}{suffix}", make)


def footprint(spec: Specialisation, capability: int) -> Footprint:
    """As triton_aot.compile_for. The code is from triton's own cache, which the fixture `kept_triton_cache` keeps; what the
    disassembler finds in it is kept here."""
    from rtaccel.kernels._gpu.triton_aot import compile_kernel

    kernel = compile_kernel(spec, capability)
    return read(kernel.asm["cubin"], kernel.metadata.shared)


def read(cubin: bytes, shared_bytes: int) -> Footprint:
    """As triton_aot.read_cubin."""
    import triton

    from rtaccel.kernels._gpu import triton_aot

    def make(path: Path) -> None:
        path.write_text(json.dumps(asdict(triton_aot.read_cubin(cubin, shared_bytes))))

    of = key(cubin, str(shared_bytes), triton.__version__, text_of(Path(triton_aot.__file__)))
    return triton_aot.Footprint(**json.loads(file("footprints", f"{of}.json", make).read_text()))


def cubin(kernel: CudaKernel, capability: int) -> Cubin:
    """As cuda_nvrtc.compile_cubin."""
    from rtaccel.kernels._gpu import cubin_store, cuda_nvrtc

    def make(path: Path) -> None:
        cubin_store.CubinStore(path).put(cuda_nvrtc.compile_cubin(kernel, capability))

    if cuda_nvrtc.unavailable() is not None:
        return cuda_nvrtc.compile_cubin(kernel, capability)  # which says why not
    files = (Path(module.__file__) for module in (cuda_nvrtc, cubin_store))  # type: ignore[arg-type]
    of = key(kernel.key, repr(kernel), str(capability), cuda_nvrtc.version(), text_of(*files))
    found: Any = cubin_store.CubinStore(file("nvrtc", of, make)).find(kernel.key, capability)
    return found
