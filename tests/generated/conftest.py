"""Random models are captured without torch's cache of fake results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def uncached_capture() -> Iterator[None]:
    """No two calls of random models are alike, and to look them up takes torch a third of the time of a capture. Results are the
    same with the cache and without; all other tests have it."""
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        yield
