"""Offline scoring with Ray Data: a model over the batches of a data set."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.deploy.load import load
from rtaccel.deploy.verified import read_verified


class Scorer:
    """A model over batches, for `dataset.map_batches(Scorer, fn_constructor_args=...)`; `score` does that.

    content: bytes of a file of rt.save, of a model without a past and with an open batch.
    columns: of its inputs, in its order. outputs: names of the columns that are added, one for each output.

    Batches are dicts of arrays: column [batch, ...] each. Raises ShapeError for columns that are not there or do not fit.
    """

    def __init__(self, content: bytes, columns: tuple[str, ...], outputs: tuple[str, ...], threads: int = 1) -> None:
        self._model = load(content, threads=threads)
        self._columns, self._outputs = columns, outputs
        if self._model.streams:
            raise UnsupportedProblem("score", "a stream, which has a past", "a model of windows", "Save rt.compile's.")
        for what, names, edges in (("columns", columns, self._model.inputs), ("outputs", outputs, self._model.outputs)):
            if len(names) != len(edges):
                raise ShapeError("score", f"{len(names)} {what}", f"{len(edges)}, as the model has", "Name each.")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """float32 [batch, ...] in the columns of the inputs to the same batch with columns of the outputs."""
        missing = [name for name in self._columns if name not in batch]
        if missing:
            raise ShapeError("score", f"no column {', '.join(missing)}", f"of: {', '.join(batch)}", "Name its columns.")
        made = self._model(*(np.ascontiguousarray(batch[name]) for name in self._columns))
        outs = made if isinstance(made, tuple) else (made,)
        return {**batch, **dict(zip(self._outputs, outs))}


def score(
    dataset: Any,
    path: str | os.PathLike[str],
    columns: str | tuple[str, ...],
    outputs: str | tuple[str, ...] = "score",
    *,
    batch_size: int = 4096,
    concurrency: int | tuple[int, int] = 1,
    threads: int = 1,
    **options: Any,
) -> Any:
    """A ray.data.Dataset with the outputs of a model as more columns, computed where the data are, when it is read.

    path: of a file of rt.save. columns, outputs: as in Scorer. concurrency: how many actors, or (fewest, most).
    options: more of Dataset.map_batches, `num_cpus` for example.

    Raises FormatError for a file that does not fit, and as Scorer does.
    """
    given = (columns,) if isinstance(columns, str) else tuple(columns)
    names = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    content = read_verified(path)
    Scorer(content, given, names)  # what does not fit is told here, and not by a worker
    return dataset.map_batches(
        Scorer, fn_constructor_args=(content, given, names, threads), batch_size=batch_size, concurrency=concurrency,
        batch_format="numpy", **options,
    )  # fmt: skip
