"""The same network in ONNX Runtime: one tick a call, its past handed back in, in memory that is bound once."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from examples._shared.outcome import Missing
from examples.order_book import book
from examples.order_book.network import HIDDEN, WIDTH, Network, Step

NAMES = ("past", "h", "c")
SHAPES = ((1, WIDTH, 8), (1, HIDDEN), (1, HIDDEN))


class Peer:
    """Each call reads x float32 [1, 41] and writes scores float32 [1, 3]. The past goes on without a copy."""

    def __init__(self, network: Network) -> None:
        try:
            import onnxruntime
            import onnxscript  # noqa: F401, torch's exporter needs it
        except ImportError as error:
            raise Missing(f"no {error.name}: pip install 'rtaccel[demo]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        step, x = Step(network).eval(), torch.zeros(1, book.FEATURES)
        given = (x, *(torch.zeros(shape) for shape in SHAPES))
        log = logging.getLogger("torch.onnx")
        level, quiet = log.level, contextlib.redirect_stdout(io.StringIO())
        log.setLevel(logging.ERROR)
        try:
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet:
                warnings.simplefilter("ignore")
                path = Path(folder) / "step.onnx"
                outputs = ["scores", *(f"{name}_out" for name in NAMES)]
                torch.onnx.export(
                    step, given, path, dynamo=True, verbose=False, external_data=False,
                    input_names=["x", *NAMES], output_names=outputs,
                )  # fmt: skip
                session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        finally:
            log.setLevel(level)
        self.x, self.scores = np.zeros((1, book.FEATURES), np.float32), np.zeros((1, 3), np.float32)
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._pasts = [[value(np.zeros(shape, np.float32)) for shape in SHAPES] for _ in range(2)]
        self._calls: list[Callable[[], None]] = []
        for turn in range(2):
            binding = session.io_binding()
            _bind(binding.bind_input, "x", self.x)
            _bind(binding.bind_output, "scores", self.scores)
            for name, before, after in zip(NAMES, self._pasts[turn], self._pasts[1 - turn]):
                binding.bind_ortvalue_input(name, before)
                binding.bind_ortvalue_output(f"{name}_out", after)
            self._calls.append(lambda b=binding: session.run_with_iobinding(b))
        self._turn = 0

    def __call__(self) -> None:
        self._calls[self._turn]()
        self._turn ^= 1

    def step(self, x: np.ndarray) -> np.ndarray:
        """For a loop: float32 [41] to [3]."""
        self.x[0] = x
        self()
        return self.scores[0]

    def reset(self) -> None:
        for past in self._pasts:
            for value, shape in zip(past, SHAPES):
                value.update_inplace(np.zeros(shape, np.float32))
        self._turn = 0


def _bind(bind: Callable[..., None], name: str, array: np.ndarray) -> None:
    bind(name, "cpu", 0, np.float32, list(array.shape), array.ctypes.data)
