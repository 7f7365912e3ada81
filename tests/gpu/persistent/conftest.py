"""A device that hangs where a real one would, in the place of the GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtaccel.backends import cuda_driver, cuda_errors, cuda_persistent
from rtaccel.core import settings
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.options import Options
from tests.gpu.persistent.models import LARGE, SMALL, Make, lowered_chain, lowered_large_chain, lowered_stream
from tests.support.fake_cuda import FakeCard


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCard]:
    monkeypatch.setenv(settings.KERNELS, str(tmp_path))
    for width in (32, 48):  # torch.export would ask the card
        lowered_chain(width)
    lowered_large_chain()
    for size in (SMALL, LARGE):
        lowered_stream(*size)
    made = FakeCard()
    made.install(monkeypatch)
    monkeypatch.setattr(cuda_persistent, "_seats", [])
    monkeypatch.setattr(cuda_persistent, "_left_alone", [])
    monkeypatch.delenv(cuda_driver.CONNECTIONS, raising=False)
    monkeypatch.delenv(cuda_driver.LAUNCH_BLOCKING, raising=False)
    yield made
    made.over = True
    for (
        thread
    ) in threading.enumerate():  # a call that was given up goes on, and would write into the log of another test's card
        if thread.name.startswith("rtaccel "):
            thread.join(30)
            assert not thread.is_alive(), f"{thread.name} does not end"
    cuda_errors.revive()


@pytest.fixture
def chain() -> Make:
    """Makes MLPs of some width on a persistent kernel; each width is code of its own."""

    def make(width: int = 32) -> CompiledModel:
        plain = lowered_chain(width)
        options = Options(1, "cpu", None, 1, "Net", mode="persistent")
        return CompiledModel(plain._program, options, plain._argument_names)

    return make
