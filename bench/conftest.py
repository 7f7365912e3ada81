"""Benchmarks run on one torch thread, and find the modules that lie beside them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rtaccel.cli._bench.rows import names_on_any_cpu

sys.path.insert(0, str(Path(__file__).parent))


def pytest_budget_names() -> set[str]:
    """Rows of budgets.toml for kernels of another CPU are right here too."""
    from test_kernels import PAIRS

    return names_on_any_cpu([f"{impl.op}/{case.id}/{impl.name}" for case, impl in PAIRS])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
