"""Kernels of rows are built ahead without a card, each once, into the folder where rows find them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from bench.device import prepare

pytestmark = pytest.mark.usefixtures("kept_triton_cache")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "claims").mkdir()
    monkeypatch.setenv("RTACCEL_KERNELS", str(tmp_path / "kernels"))
    monkeypatch.setenv(prepare.CLAIMS, str(tmp_path / "claims"))
    monkeypatch.setenv(prepare.CARD, "89,58")
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    return tmp_path


def test_the_null_model_is_built_once(folder: Path) -> None:
    assert prepare.null() == {"passed": True, "kernels": 1, "built": 1}
    (cubin,) = (folder / "kernels").glob("*.cubin")
    assert cubin.name.startswith("sm_89-")
    assert prepare.null() == {"passed": True, "kernels": 1, "built": 0}


def test_what_another_process_builds_is_left_to_it(folder: Path) -> None:
    assert prepare.claimed(folder / "claims" / "a")
    assert not prepare.claimed(folder / "claims" / "a")
    (cubin,) = [prepare.null(), *(folder / "kernels").glob("*.cubin")][1:]
    cubin.unlink()
    assert prepare.null()["built"] == 0, "its claim is still there"


def test_a_row_finds_what_was_built_for_it(folder: Path) -> None:
    """The kernels that compiling the model of a row binds are in the folder."""
    from rtaccel.kernels._gpu.cubin_store import CubinStore
    from rtaccel.runtime.gpu.ahead import persistent_kernels_of

    found = prepare.persistent("mlp 64-64-64-8", "w8a8")
    assert found["built"] == found["kernels"] == 1
    model, inputs = prepare.network("mlp 64-64-64-8")
    again = persistent_kernels_of(
        model, (torch.randn(1, inputs),), "w8a8", [torch.randn(256, inputs)], 89, streamed=False
    )
    assert all(CubinStore(folder / "kernels").find(key, 89) is not None for key in again)
