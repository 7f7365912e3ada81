"""Plain torch: always there, on any device, the reference that the others must equal."""

from __future__ import annotations

from rtaccel.backends.base import Backend


def _facts() -> dict[str, object]:
    import torch

    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


BACKEND = Backend(
    name="portable",
    rank=0,
    devices=("cpu", "cuda"),
    unavailable=lambda: None,
    remedy="",
    facts=_facts,
)
