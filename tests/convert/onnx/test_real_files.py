"""Files that people use: the results of ONNX Runtime to 1e-5, and every stage native."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs the package onnx (extra 'onnx')")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")

import rtaccel as rt
from tests.support.onnx_files import FILES, OnnxFile
from tests.support.onnx_peer import flat, run, session, worst


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_file(file: OnnxFile) -> None:
    path = file.find()
    if path is None:
        pytest.skip(f"needs {file.path} of the package {file.package.replace('_', '-')}")
    module = rt.from_onnx(path, fixed=file.fixed)
    peer = session(str(path))
    fast = None
    for seed in range(3 if file.name != "basic-pitch" else 1):
        feeds = file.feeds(np.random.default_rng(seed))
        wanted = run(peer, {**feeds, **{name: np.int64(value) for name, value in file.fixed.items()}})
        given = tuple(torch.from_numpy(feeds[name]) for name in module.meta["onnx"]["inputs"])
        with torch.no_grad():
            assert worst(module(*given), wanted) < 1e-5
        fast = rt.compile(module, given) if fast is None else fast
        assert worst(fast(*given), wanted) < 1e-5
    assert fast is not None and len(flat(fast(*given))) == len(module.meta["onnx"]["outputs"])
    own, stages = fast.native
    assert own == stages, fast.explain(measure=False)


def test_a_condition_on_an_input_is_decided_by_its_value_or_once_and_for_all() -> None:
    """silero-vad takes the sampling rate as an input, and has a network for each."""
    path = FILES[0].find()
    if path is None:
        pytest.skip("needs the package silero-vad")
    module = rt.from_onnx(path)
    assert module.meta["onnx"]["inputs"] == ("input", "state", "sr")
    peer = session(str(path))
    for rate, size in ((16000, 576), (8000, 288)):
        x, state = torch.randn(1, size) * 0.1, torch.randn(2, 1, 128) * 0.1
        with torch.no_grad():
            got = module(x, state, torch.tensor(rate))
        assert worst(got, run(peer, {"input": x, "state": state, "sr": np.int64(rate)})) < 1e-5
    with pytest.raises(rt.FormatError, match="an input of the file: input, state, sr"):
        rt.from_onnx(path, fixed={"rate": 16000})
    with pytest.raises(rt.FormatError, match="with 0 dimensions"):
        rt.from_onnx(path, fixed={"sr": [16000]})
