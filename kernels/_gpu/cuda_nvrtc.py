"""CUDA C++ to a cubin without a GPU, by NVRTC through cuda-core; the result goes where the Triton kernels' go (cubin_store.py).

CUDA C++ is for what neither Triton nor Numba can say: the files that end in .cu, whose heads say why. With RTACCEL_CUDA=ON
CMake compiles the same files with nvcc. Streams of int4 weights have no other kernel, nor have chains that no registers hold,
such as 512-1024-1024-512 in int8. Other streams, chains and windows have one of Triton's as well.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtaccel.core.errors import BackendUnavailable, FormatError
from rtaccel.kernels._gpu.cubin_store import Cubin, key_of

FOLDER = Path(__file__).parent.parent
"""kernels/: files and includes are named from here."""


@dataclass(frozen=True)
class CudaKernel:
    """A function in a `.cu` file of this folder. parameters: (name, type) without the two pointers to scratch at the end.

    name: of the form, for people. includes: files that the first one includes. definitions: of the preprocessor.
    shared_bytes: what a launch gives a block. cooperative: blocks wait for each other, so all must be on the device at once.
    cluster: blocks of a cluster, as the source says it; 0 for none.
    """

    file: str
    entry: str
    parameters: tuple[tuple[str, str], ...]
    num_warps: int
    name: str = ""
    includes: tuple[str, ...] = ()
    definitions: tuple[tuple[str, int | str], ...] = ()
    shared_bytes: int = 0
    cooperative: bool = False
    cluster: int = 0

    @property
    def source(self) -> str:
        return (FOLDER / self.file).read_text()

    @property
    def key(self) -> str:
        """Of the kernel in the store: a hash of its source and of how it is compiled."""
        sources = [self.source, *((FOLDER / name).read_text() for name in self.includes)]
        source = hashlib.sha256("\0".join(sources).encode()).hexdigest()
        constants = {"entry": self.entry, **dict(self.definitions)}
        return key_of(source, dict(self.parameters), constants, {"num_warps": self.num_warps, **OPTIONS})


PERSISTENT_FILES = (
    "_persistent/cuda_words.h", "_persistent/cuda_products.h", "_persistent/cuda_numbered.h", "_persistent/cuda_poll.h",
    "_persistent/cuda_lane.h",
    "_common/activations/functions.h", "_common/activations/table.def", "_common/activations/activate.h",
)  # fmt: skip
"""What persistent kernels include."""

OPTIONS: dict[str, Any] = {"std": "c++17", "fma": False}
"""Products and sums round one by one, as in every other kernel."""

ECHO = CudaKernel(
    "_persistent/cuda_echo.cu",
    "rtaccel_echo",
    (("request_ptr", "*i64"), ("reply_ptr", "*i64"), ("control_ptr", "*i64"), ("words", "i32"), ("idle_looks", "i32")),
    num_warps=1,
)


def unavailable() -> str | None:
    """None, or why CUDA C++ cannot be compiled here."""
    for module in ("cuda.core", "cuda.bindings.nvrtc"):
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            found = None
        if found is None:
            return f"{module} is not installed (pip install 'rtaccel[cuda]')"
    try:
        version()
    except Exception as error:  # the loader's own types, as its library is not there
        return f"libnvrtc cannot be loaded: {str(error).splitlines()[0]} (pip install 'rtaccel[cuda]')"
    return None


def version() -> str:
    """Of NVRTC. Raises where its library is not there."""
    nvrtc = importlib.import_module("cuda.bindings.nvrtc")
    return ".".join(map(str, nvrtc.nvrtcVersion()[1:]))


def compile_cubin(kernel: CudaKernel, capability: int) -> Cubin:
    """Raises BackendUnavailable where there is no NVRTC, FormatError with its log where it does not compile."""
    reason = unavailable()
    if reason is not None:
        raise BackendUnavailable("cuda", kernel.file, f"a compiler of CUDA C++ ({reason})", "Install it.")
    core = importlib.import_module("cuda.core")
    macros = [(name, str(value)) for name, value in kernel.definitions]
    options = core.ProgramOptions(
        arch=f"sm_{capability}", define_macro=macros or None, include_path=[str(FOLDER)], **OPTIONS
    )
    try:
        code = core.Program(kernel.source, "c++", options).compile("cubin").code
    except Exception as error:  # NVRTCError, and ValueError for an architecture it does not know
        raise FormatError(
            "cuda", f"{kernel.file} for sm_{capability}: {error}", "code that NVRTC compiles", "Mend it."
        ) from error
    return Cubin(
        key=kernel.key,
        capability=capability,
        name=kernel.name or kernel.entry,
        entry=kernel.entry,
        parameters=kernel.parameters,
        num_warps=kernel.num_warps,
        shared_bytes=kernel.shared_bytes,
        global_scratch_bytes=0,
        profile_scratch_bytes=0,
        cooperative=kernel.cooperative,
        built_with=f"nvrtc {version()}",
        code=bytes(code),
        cluster=kernel.cluster,
    )
