"""`python -m bench.soak.server` for a moment: nothing lost, and bad requests are refused as they should be."""

from __future__ import annotations

import pytest

pytest.importorskip("uvicorn", reason="needs uvicorn (extra 'serve')")
pytest.importorskip("grpc", reason="needs grpcio (extra 'serve')")

from bench.soak.server import GROWTH_BYTES, Faults, soak


def test_load_and_faults_lose_nothing() -> None:
    found = soak(seconds=6.0, share=0.5, callers=4)
    assert found["faults"] == []
    assert found["counts"] == {"ok": found["requests"]}
    assert found["requests"] > 50
    assert found["broken"] > 0
    assert {key.partition(":")[0] for key in found["bad"]} <= set(Faults.EXPECTED)
    assert found["growth_bytes"] < GROWTH_BYTES
