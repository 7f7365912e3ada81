"""Fixtures for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

if "PYTEST_XDIST_WORKER" in os.environ:  # torch's threads spin for each other: beside other workers a call takes 15 ms
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from tests.support import kept
from tests.support.generators.count import pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown  # noqa: F401
from tests.support.wheel import wheel  # noqa: F401

LONGEST = (
    "test_every_kernel_and_its_page", "test_triton_interpreter", "TestLifetimes", "test_kernels_in_the_simulator",
    "test_every_batch", "test_random_models", "under_every_instruction_set",
)  # fmt: skip
"""Parts of the ids of what takes longer than ten seconds."""


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(20)


@pytest.fixture(scope="module")
def kept_triton_cache() -> Iterator[None]:
    """Each form is compiled once, until its source, an option or triton changes: triton's own cache is keyed by them. Nothing is
    read from, or left in, the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(kept.folder("triton")))
        yield


@pytest.fixture
def nan_filled_empty():
    """Memory from torch.empty arrives full of NaN (or a sentinel): an element left unwritten cannot pass by chance."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: side by side, nobody waits for it at the end."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONGEST))
