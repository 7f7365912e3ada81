"""A plugin of pytest that lets the checks be collected as on a card, and says what of them would not run there.

    python -m pytest --collect-only -q -p tests.triton_checks.support.fake_card tests/triton_checks/check_*.py

Nothing is launched. torch says that there is an H100; what a check asks of a card when it is collected is answered by that.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from _pytest.skipping import evaluate_skip_marks

H100 = SimpleNamespace(
    name="NVIDIA H100", major=9, minor=0, multi_processor_count=132, shared_memory_per_block_optin=232448
)

torch.cuda.is_available = lambda: True
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_capability = lambda device=None: (9, 0)
torch.cuda.get_device_name = lambda device=None: H100.name
torch.cuda.get_device_properties = lambda device=None: H100  # type: ignore[assignment,return-value]


def pytest_collection_finish(session: pytest.Session) -> None:
    skipped = [item.nodeid for item in session.items if evaluate_skip_marks(item) is not None]
    for name in skipped:
        print(f"would skip: {name}")
    print(f"on a card: {len(session.items)} would run, {len(skipped)} would skip")
