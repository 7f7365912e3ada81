"""How a Triton kernel is launched: from the store where it was built ahead, else by Triton's own JIT, unless that is forbidden.

Every kernel file binds its launch here, when it packs its weights: what is looked up is looked up once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rtaccel.backends import cuda_persistent
from rtaccel.backends.cuda_errors import translated
from rtaccel.core import settings
from rtaccel.core.errors import BackendUnavailable
from rtaccel.kernels._gpu import cubin_launch
from rtaccel.kernels._gpu.cubin_store import Cubin, CubinsInMemory, CubinStore, key_of
from rtaccel.kernels._gpu.triton_spec import Specialisation


class Launch(Protocol):
    """launch(grid, **run-time arguments by name)."""

    def __call__(self, grid: tuple[int, ...], **arguments: Any) -> None: ...

    def load(self, grid: tuple[int, ...], **arguments: Any) -> None:
        """Compiles and loads what a launch with such arguments needs, and launches nothing."""


_recorders: list[dict[str, Any]] = []


@contextmanager
def recording() -> Iterator[dict[str, Any]]:
    """Collects what is bound inside, by key, for building it ahead: forms of Triton kernels (Specialisation), and of those in
    CUDA C++ (CudaKernel)."""
    found: dict[str, Any] = {}
    _recorders.append(found)
    try:
        yield found
    finally:
        _recorders.remove(found)


def spec_key(spec: Specialisation) -> str:
    """Of a kernel in the store. `cache_key` is triton's hash of the source and of everything it calls."""
    return key_of(spec.kernel.cache_key, spec.signature, spec.constants, spec.options)


def bind(spec: Specialisation) -> Launch:
    """launch(grid, **run-time arguments by name) of this specialization.

    Raises BackendUnavailable where it would have to be compiled and RTACCEL_NO_JIT forbids it.
    """
    if settings.triton_interpret():
        return _Jit(spec)
    if _players:
        return _Played(spec)
    if record(spec_key(spec), spec):
        return refuse
    cubin = built_ahead(spec_key(spec))
    if cubin is not None and cubin_launch.unavailable() is None:
        return cubin_launch.load(cubin)
    if not may_compile():
        raise forbidden(spec.name)
    return _Jit(spec)


@dataclass(frozen=True, eq=False)
class NotedLaunch:
    """A launch that was not made. spec: a Specialisation, or a CudaKernel."""

    spec: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]


_players: list[bool] = []
_notes: list[list[NotedLaunch]] = []


@contextmanager
def played(room: bool = True) -> Iterator[None]:
    """What is bound inside launches nothing, then or later; tensors need no memory. For counting and proofs without a card.

    room: whether the card that is not there has room for clusters."""
    _players.append(room)
    try:
        yield
    finally:
        _players.pop()


@contextmanager
def noted() -> Iterator[list[NotedLaunch]]:
    """Collects the launches of what was bound in `played()`, in their order."""
    found: list[NotedLaunch] = []
    _notes.append(found)
    try:
        yield found
    finally:
        _notes.remove(found)


class _Played:
    def __init__(self, spec: Any) -> None:
        self._spec = spec

    def __call__(self, grid: tuple[int, ...], **arguments: Any) -> None:
        for found in _notes:
            found.append(NotedLaunch(self._spec, grid, arguments))

    def load(self, grid: tuple[int, ...], **arguments: Any) -> None:
        """Nothing is to be loaded."""


def is_playing() -> bool:
    """Whether what is bound here launches nothing."""
    return bool(_players)


def has_played_room() -> bool:
    """Inside `played()`: what it was told."""
    return _players[-1]


def played_launch(kernel: Any) -> Launch:
    """Of a kernel in CUDA C++ (CudaKernel), inside `played()`."""
    return _Played(kernel)


def is_recording() -> bool:
    return bool(_recorders)


def record(key: str, kernel: Any) -> bool:
    """Whether kernels are only collected here; this one then was."""
    for found in _recorders:
        found[key] = kernel
    return is_recording()


def forbidden(name: str) -> BackendUnavailable:
    """The error for a kernel that would have to be compiled where that is forbidden."""
    places = " or ".join([*(memory.source for memory in _files), *map(str, settings.kernel_folders())])
    by = settings.NO_JIT if settings.no_jit() else "load_kernels(otherwise='refuse')"
    return BackendUnavailable(
        "kernels", name, f"a kernel built ahead in {places}, as {by} forbids compiling",
        "Build it with `rtaccel build-kernels --model ...` or rt.save(kernels=...) from these sources, and install cuda-core.",
    )  # fmt: skip


_files: list[CubinsInMemory] = []


def remember(memory: CubinsInMemory) -> None:
    """Kernels that are bound from here on are looked for there first."""
    _files.insert(0, memory)


def forget(memory: CubinsInMemory) -> None:
    if memory in _files:
        _files.remove(memory)


def may_compile() -> bool:
    """Whether a kernel that was not built ahead is compiled."""
    return not settings.no_jit() and not any(memory.strict for memory in _files)


def built_ahead(key: str) -> Cubin | None:
    """The stored kernel for this card, from the first file or folder that has it."""
    folders = [CubinStore(folder) for folder in settings.kernel_folders() if folder.is_dir()]
    stores: list[CubinsInMemory | CubinStore] = [*_files, *folders]
    if not stores:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return next((c for store in stores if (c := store.find(key, 10 * major + minor)) is not None), None)


class _Jit:
    """By Triton's JIT, which compiles at the first launch of each kind of arguments and keeps what it loaded; or interpreted."""

    def __init__(self, spec: Specialisation) -> None:
        self._name, self._kernel, self._keywords = spec.name, spec.kernel, spec.keywords
        self._loads = not settings.triton_interpret()

    def __call__(self, grid: tuple[int, ...], **arguments: Any) -> None:
        if self._loads and cuda_persistent.running():
            self._compiled(grid, arguments)
        self._kernel[grid](**arguments, **self._keywords)

    def load(self, grid: tuple[int, ...], **arguments: Any) -> None:
        if not self._loads:
            return
        with translated("kernels"):
            compiled = self._compiled(grid, arguments)
            cuda_persistent.within(cuda_persistent.LOAD_S, "kernels", f"loading {self._name}", compiled._init_handles)

    def _compiled(self, grid: tuple[int, ...], arguments: dict[str, Any]) -> Any:
        """What Triton has for these arguments. Raises BackendUnavailable where it would be loaded beside a persistent kernel."""
        compiled = self._kernel.warmup(grid=grid, **arguments, **self._keywords)
        if compiled.module is None:
            cuda_persistent.refuse_loading("kernels", self._name)
        return compiled


class _Recorded:
    """Of a kernel that was only noted."""

    def __call__(self, grid: tuple[int, ...], **arguments: Any) -> None:
        raise BackendUnavailable("kernels", "a launch", "a plan, as kernels are only recorded here", "Bind it anew.")

    load = __call__


refuse = _Recorded()
