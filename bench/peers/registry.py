"""All kits. A new peer is a new file named here."""

from __future__ import annotations

import importlib
from importlib import metadata
from types import ModuleType

from bench.peers.base import Peer

KITS = (
    "torch_eager", "torch_compiled", "onnx_runtime", "open_vino", "lite_rt", "ncnn_net", "numba_mlp", "scipy_sparse", "ours",
)  # fmt: skip


def kit(name: str) -> ModuleType:
    """The module of a kit; its runtime is imported only when it converts or loads."""
    return importlib.import_module(f"bench.peers.kits.{name}")


def peers() -> dict[str, Peer]:
    return {peer.name: peer for name in KITS for peer in kit(name).PEERS}


def missing(peer: Peer) -> list[str]:
    """Packages that the kit needs to run and that are not installed."""
    return [name for name in kit(peer.kit).PACKAGES if _version(name) is None]


def missing_tools(peer: Peer) -> list[str]:
    """Packages that the kit needs to convert and that are not installed."""
    return [name for name in _converting(peer) if _version(name) is None]


def versions(peer: Peer) -> dict[str, str | None]:
    return {name: _version(name) for name in _converting(peer)}


def _converting(peer: Peer) -> tuple[str, ...]:
    module = kit(peer.kit)
    return (*module.PACKAGES, *getattr(module, "TOOLS", ()))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
