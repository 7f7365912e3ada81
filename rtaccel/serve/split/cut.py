"""A model cut in two, ready to run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.deploy import container
from rtaccel.deploy.save import artifact_bytes, save
from rtaccel.measure.numbers import is_whole, shown
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.serve.split.early import EarlyEdge, EarlyRun, Exits, bad_rows
from rtaccel.serve.split.front import Row, table
from rtaccel.serve.split.halves import Crossing, Halves, crossings, halved, whole_group
from rtaccel.serve.split.link import Link
from rtaccel.serve.split.passage import Passage

NAME = "cloud"


@dataclass(frozen=True)
class Proof:
    """What a run of both halves in this process showed. error: as in a row. equal: whether exact wires gave the model's own bits
    in calls of the example's batch. edge_us, cloud_us: of a call of each half here, from Python, the least of rounds; 0
    without that half. exits: the share of calls that the edge answered by itself, of the calibration data call by call.
    sent_bytes: of frames to the cloud, a call of these in the mean."""

    error: float
    equal: bool
    edge_us: float
    cloud_us: float
    exits: float = 0.0
    sent_bytes: float = 0.0


class Cut:
    """A model in two halves. `cut(x)` runs both in this process, with frames between them.

    `best` is the row that was chosen, `front` all of them, the fastest first. `edge` and `cloud` are compiled models that give
    tuples, or None where no stage is on that side. The edge gives what crosses, then those of the outputs that it has already.
    `proof` is what a run of the best showed, `link` what it was planned for.

    With early exits the result is the answer of each row alone, float32 [batch, ...], and `last_exit` says which output it is.
    `edge` then has its parts in `edge.parts`, and nothing is sent where every row left on the edge.

    `sent, made = cut.before(inputs)` and `cut.after(inputs, made, cut.cloud(*sent))` is the model, to the error of the row.
    Inputs may cross as they are. Arguments are those of the model, float32 or int64 [batch, ...], and the result has the
    model's nesting. Raises ShapeError for inputs that do not fit.
    """

    def __init__(
        self,
        halves: Halves,
        best: Row,
        front: Sequence[Row],
        link: Link,
        whole: CompiledModel,
        lead: tuple[int, ...] = (1,),
        digest: bytes | None = None,
        exits: Exits | None = None,
    ) -> None:
        self.exits = exits
        """The tests of early exits, or None."""
        self._left: Any = None
        self._halves, self.best, self.front, self.link = halves, best, tuple(front), link
        self.edge, self.cloud = halves.edge, halves.cloud
        self.proof: Proof | None = None
        self.lead = lead
        """Leading dimensions of the example: its batch."""
        self._whole = whole
        self._passages: dict[tuple[int, ...], Passage] = {}
        if digest is None:
            digest = bytes(32) if self.cloud is None else container.digest(artifact_bytes(self.cloud, name=NAME))
        self.digest: bytes = digest
        """sha256 of the cloud's half: every frame has 16 bytes of it, and `save_cloud` writes a file with it."""

    @property
    def at(self) -> int:
        """Stages on the edge."""
        return self.best.at

    @property
    def wire_bytes(self) -> int:
        """Bytes that travel in a call, there and back."""
        return self.best.wire_bytes

    def other(self, row: Row) -> Cut:
        """The same model cut as another row of the front says, whether that may be chosen or not. Raises UnsupportedProblem for
        one that cannot be sent, FormatError for what is no row of the front."""
        stages = len(self._whole._program.stages)
        if not isinstance(row, Row) or not is_whole(row.at, 0, stages):
            got = f"a row at {shown(row.at)}" if isinstance(row, Row) else f"row={shown(row)}"
            raise FormatError("split", got, f"one of cut.front, which has {stages} stages", "Take one.")
        if row.scheme != "none" and not row.wire_bytes:
            raise UnsupportedProblem(
                "split", f"a cut at {row.at}: {row.why_not}", "one that can be sent", "Take another."
            )
        crossing = crossings(whole_group("split", self._whole))[row.at]
        halves = halves_of(self._whole, crossing, self.exits)
        return Cut(halves, row, self.front, self.link, self._whole, self.lead, exits=self.exits)

    @property
    def last_exit(self) -> int | Tensor | None:
        """With early exits, the output that answered the last call: a number where it had one row, else int32 [batch]."""
        if self._left is None:
            return None
        return int(self._left[0]) if len(self._left) == 1 else torch.from_numpy(self._left.copy())

    def before(self, inputs: Sequence[Any]) -> tuple[tuple[Tensor, ...] | None, Any]:
        """Runs the edge: (the tensors that cross, what `after` needs of the edge). None in place of tensors: the edge has
        answered every row, and `after` takes () for the answer.

        inputs: arguments of a call, float32 or int64 [batch, ...]. Raises ShapeError for those that do not fit.
        """
        leaves = pytree.tree_leaves(tuple(inputs))
        if isinstance(self.edge, EarlyEdge):
            run = self.edge.run(inputs)
            return (None if run.done else self._halves.crossing_values(leaves, run.made)), run
        made = () if self.edge is None else self.edge(*inputs)
        return self._halves.crossing_values(leaves, made), made

    def after(self, inputs: Sequence[Any], made: Any, answer: Sequence[Tensor]) -> Any:
        """The model's result from what the edge gave and what came back.

        inputs: arguments of the call, float32 or int64 [batch, ...]. made: what `before` gave. answer: what came back, float32
            [batch, ...]; it may be written to.

        Raises ShapeError where they do not fit together. Where int8 values crossed, which hold no NaN, rows of the inputs that
        are not finite are NaN in every output.
        """
        if self.exits is not None:
            return self._sure(self.exits, inputs, made, answer)
        result = self._halves.result(made, answer)
        if any(port.value.dtype == "int8" for port in self._halves.crossing.ports):
            rows = bad_rows(inputs)
            if rows is not None:
                floats = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor) and t.is_floating_point()]
                for t in floats:
                    t[torch.from_numpy(rows)] = float("nan")
        return result

    def _sure(self, exits: Exits, inputs: Sequence[Any], made: Any, answer: Sequence[Tensor]) -> Tensor:
        """Of each row the answer that was sure enough first."""
        run = made if isinstance(made, EarlyRun) else EarlyRun(tuple(made))
        bad = run.bad
        if bad is None and any(port.value.dtype == "int8" for port in self._halves.crossing.ports):
            bad = bad_rows(inputs)
        outputs = pytree.tree_leaves(self._halves.result(run.made, answer), is_leaf=lambda y: y is None)
        found, self._left = exits.answer(outputs, run.passed, bad)
        return found

    def __call__(self, *inputs: Any) -> Any:
        """Both halves, and frames between them, in this process. Raises ShapeError for inputs that do not fit."""
        if self.cloud is None and self.exits is None:
            assert self.edge is not None
            return self._halves.result(self.edge(*inputs), ())
        sent, made = self.before(inputs)
        if self.cloud is None or sent is None:
            return self.after(inputs, made, ())
        if not sent or not all(isinstance(t, Tensor) for t in sent):
            return self._whole(*inputs)  # says what is wrong with them
        lead = tuple(sent[0].shape[: self._halves.crossing.ports[0].lead])
        if lead not in self._passages:
            if len(self._passages) >= 64:
                self._passages.clear()  # one for each batch size that comes; a frame is small
            self._passages[lead] = Passage(self._halves.crossing.ports, lead, self.best.scheme, self.digest)
        if self.edge is None and any(
            t.shape != o.shape or t.dtype != o.dtype for t, o in zip(sent, self._passages[lead].out)
        ):
            return self._whole(*inputs)  # the same
        return self.after(inputs, made, self.cloud(*self._passages[lead].there(sent)))

    def save_cloud(self, path: str | os.PathLike[str]) -> Path:
        """Writes the cloud's half as a file for `rt.load` and `rtaccel.serve.remote.Endpoint`. Raises UnsupportedProblem where
        all of the model is on the edge."""
        if self.cloud is None:
            raise UnsupportedProblem(
                "save_cloud", "a cut behind the last stage", "a half on the cloud", "Nothing to send."
            )
        return save(self.cloud, path, name=NAME)

    @property
    def sent(self) -> list[tuple[tuple[int, ...], str]]:
        """(shape, dtype) of each tensor that crosses, with the batch of the example."""
        return [((*self.lead, *p.trailing), p.value.dtype) for p in self._halves.crossing.ports]

    @property
    def answered(self) -> list[tuple[tuple[int, ...], str]]:
        """(shape, dtype) of each tensor that comes back, with the batch of the example."""
        whole = {p.value.name: p for p in whole_group("split", self._whole).outputs}
        names = [] if self.cloud is None else [str(name) for name in self.cloud._program.outputs]
        return [((*self.lead, *whole[n].trailing), whole[n].value.dtype) for n in names]

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the best row, all rows, the link, the proof."""
        return {
            "best": self.best.to_dict(),
            "front": [row.to_dict() for row in self.front],
            "link": vars(self.link),
            "proof": None if self.proof is None else vars(self.proof),
            "digest": self.digest.hex(),
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def __str__(self) -> str:
        b, n = self.best, len(self._whole._program.stages)
        where = (
            "all on the edge" if b.at == n else "all on the cloud" if b.at == 0 else f"{b.at} of {n} stages on the edge"
        )
        here = f"{b.exits:.1%} of the calls end early, of the others " if b.exits else ""
        head = f"{where}, {here}{b.wire_bytes} bytes there and {b.answer_bytes} back: {b.us:.1f} us predicted"
        return f"{head}\n{table(self.front, b)}"


def halves_of(fast: CompiledModel, crossing: Crossing, exits: Exits | None) -> Halves:
    """The halves of a cut; with tests that the edge can ask, in parts."""
    if exits is None or not exits.at_edge(crossing.at):
        return halved(fast, crossing)
    return halved(fast, crossing, lambda cuts, names: EarlyEdge(fast, exits, crossing.at, cuts, names))


def error_of(results: Sequence[tuple[Any, Any]]) -> float:
    """rms of the difference over rms, of (found, expected) pairs in float64; infinite where one is not finite."""
    off = size = 0.0
    for found, expected in results:
        for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected)):
            if isinstance(a, Tensor):
                off += float((a.detach().double() - b.detach().double()).square().sum())
                size += float(b.detach().double().square().sum())
    value = (off / size) ** 0.5 if size > 0 else (0.0 if off == 0 else float("inf"))
    return value if value == value else float("inf")
