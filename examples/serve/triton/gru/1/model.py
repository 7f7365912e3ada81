"""A model of rt.save in Triton's Python backend: streams by sequence, all requests of a call in one native call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

import rtaccel as rt


class TritonPythonModel:
    """What Triton looks for. One instance: a sequence's past is in it."""

    def initialize(self, args: dict[str, str]) -> None:
        self.model = rt.load(Path(args["model_repository"]) / args["model_version"] / "model.rta")
        self.streams: dict[int, int] = {}
        self.free = list(range(self.model.streams))

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each request, in their order; a request that does not fit gets an error and moves nothing."""
        responses: list[Any] = [None] * len(requests)
        rows: list[tuple[int, tuple[np.ndarray, ...], int | None]] = []
        ended: list[int] = []
        for place, request in enumerate(requests):
            try:
                inputs = tuple(_fitting(_input(request, name), name, d, s) for name, d, s in self.model.inputs)
                stream = self._stream(request, ended) if self.model.streams else None
                rows.append((place, inputs, stream))
            except ValueError as error:
                responses[place] = _refused(error)
        self._run(rows, responses)
        for sequence in ended:
            self.free.append(self.streams.pop(sequence))
        return responses

    def _stream(self, request: Any, ended: list[int]) -> int:
        sequence = int(_input(request, "CORRID").flat[0])
        if _input(request, "START").flat[0]:
            if sequence not in self.streams:
                if not self.free:
                    raise ValueError(f"all {self.model.streams} streams are in use")
                self.streams[sequence] = self.free.pop()
            self.model.reset(self.streams[sequence])
        elif sequence not in self.streams:
            raise ValueError(f"sequence {sequence} has not begun; send its first step with the start flag")
        if _input(request, "END").flat[0]:
            ended.append(sequence)
        return self.streams[sequence]

    def _run(self, rows: list[tuple[int, tuple[np.ndarray, ...], int | None]], responses: list[Any]) -> None:
        if not rows:
            return
        given = tuple(np.concatenate([inputs[i] for _, inputs, _ in rows]) for i in range(len(self.model.inputs)))
        try:
            if self.model.streams:
                outs = self.model.step(*given, streams=[stream for _, _, stream in rows])
            else:
                outs = self.model(*given)
        except rt.RtaccelError as error:
            if len(rows) == 1:
                responses[rows[0][0]] = _refused(error)
            else:  # whose fault it is
                for row in rows:
                    self._run([row], responses)
            return
        first = 0
        for place, inputs, _ in rows:
            last = first + len(inputs[0])
            tensors = [
                pb_utils.Tensor(name, out[first:last])
                for (name, _, _), out in zip(
                    self.model.outputs, outs if isinstance(outs, tuple) else (outs,), strict=True
                )
            ]
            responses[place] = pb_utils.InferenceResponse(output_tensors=tensors)
            first = last


def _input(request: Any, name: str) -> np.ndarray:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        raise ValueError(f"no input {name}")
    return tensor.as_numpy()


def _fitting(x: np.ndarray, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    fits = x.dtype == dtype and x.ndim == len(shape) and all(w in (-1, n) for n, w in zip(x.shape, shape, strict=True))
    if not fits:
        raise ValueError(f"input {name} as {x.dtype}{list(x.shape)}; the model takes {dtype}{list(shape)}")
    return np.ascontiguousarray(x)


def _refused(error: Exception) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
