"""Names of shared memory that are taken away after each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest


@pytest.fixture
def name() -> Iterator[str]:
    found = f"test-{os.getpid()}-{uuid4().hex[:8]}"
    yield found
    for path in Path("/dev/shm").glob(f"rta.*{found}*"):
        path.unlink(missing_ok=True)
