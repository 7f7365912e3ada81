"""Models that are served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serve.v2.protocol_server import save_models


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return save_models(tmp_path_factory.mktemp("served"))
