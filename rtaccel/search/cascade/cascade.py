"""`Cascade`: models of growing cost, left at the first answer that is sure enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.search.cascade.calibrate import Calibration, calibrated_exits
from rtaccel.search.cascade.exits import NEVER, Exit, exits_of
from rtaccel.search.cascade.report import CascadeReport, report_on
from rtaccel.search.cascade.staged import Staged
from rtaccel.search.cascade.stages import checked_stages


class Cascade(Staged):
    """Runs compiled models one after the other until an answer is sure enough; one native call from beginning to end.

    stages: models of `rt.compile` or `rt.stream`, cheap ones first; each is one native plan on the CPU, a tensor in and one out.
        They read the same input, and give answers float32 [batch, ...] of one shape.
    exit: after each stage but the last a limit of `test`, or an `rt.Exit`. A row leaves where its answer passes; the last
        stage answers what is left. Every row of a batch leaves by itself: the others are brought together for the next stage.
    heads: compiled models that make the answers, one for each stage. Stages then follow one another: stage i reads what
        stage i - 1 gave, and its head reads what it gives. So a model with early exits computes its trunk once.
    skipped: for stages that are streams, of a stream whose answer came earlier: "hold", the stage's past stays as it is, so it
        sees only the time steps that reach it; or "advance", it makes its step nevertheless, which takes its time.
        One for all, or one for each stage.
    test: of plain limits: "confidence", "margin", "entropy", "energy", "value", as in `rt.Exit`.

    Answers are the same bits as the model that gave them computes for the rows that reached it. An answer with a NaN or +inf in
    it never leaves early.
    Raises UnsupportedProblem for a model that is not one native plan, ShapeError for stages that do not fit each other,
    FormatError for a wrong number of exits and unknown names.
    What a test in Python raises goes through; the states of streams are then worth nothing until `reset`.

    Source: cascades of classifiers (Viola and Jones, 2001) and early exits (Teerapittayanon et al., BranchyNet, 2016).

    Example:
        >>> import torch, rtaccel as rt
        >>> x = torch.randn(5, 8)
        >>> small, full = (rt.compile(torch.nn.Linear(8, 3).eval(), (x,)) for _ in range(2))
        >>> cascade = rt.Cascade([small, full], exit=[0.9])
        >>> cascade(x).shape, cascade.last_exit.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(
        self,
        stages: Sequence[Any],
        exit: Sequence[float | Exit],
        *,
        heads: Sequence[Any] | None = None,
        skipped: str | Sequence[str] = "hold",
        test: str | Callable[..., float] = "confidence",
    ) -> None:
        checked = checked_stages("Cascade", stages, heads, skipped)
        self._exits = exits_of("Cascade", exit, len(checked.models), test)
        self._calibration: Calibration | None = None
        shape = checked.output.trailing
        for index, one in enumerate(self._exits):
            one.check_answer("Cascade", index, shape)
        super().__init__("Cascade", checked, [*(one.native_row(shape) for one in self._exits), NEVER])

    @classmethod
    def calibrated(
        cls,
        stages: Sequence[Any],
        data: Tensor,
        labels: Tensor | None = None,
        metric: Callable[[Tensor], float] | None = None,
        max_drop: float = 0.01,
        *,
        heads: Sequence[Any] | None = None,
        test: Any = "confidence",
        standard_errors: float = 1.0,
    ) -> Cascade:
        """A cascade whose limits are the fastest on `data` that keep the last stage's metric to `max_drop`.

        data: inputs [rows, ...], as the models take them; not those that the models were trained on.
        labels: int64 [rows], the right class of each row; the metric is then the accuracy.
        metric: or a function of answers float32 [rows, ...] in the order of the data, that gives a number; larger is better.
        max_drop: by how much the metric may be below the last stage's.
        test: one for all stages, or one for each stage but the last: a name, or an `rt.Exit`, whose limit is replaced.
        standard_errors: with labels, so many standard errors of the drop must fit below max_drop too. A sample that shows
            no drop proves little where it is small; judge the cascade on further data with `report`.

        Each stage is run over the data once and timed. For a stage, limits between up to 64 quantiles of its scores are tried,
        from the one that lets most rows leave; the permitted drop is shared between the stages in several ways, and the sharing
        with the least mean time is taken. Where nothing passes, no row leaves early.

        Raises FormatError for labels and metrics that do not fit, UnsupportedProblem for streams: their states depend on the
        exits.
        """
        checked = checked_stages("Cascade", stages, heads, "hold")
        exits, found = calibrated_exits(checked, data, labels, metric, max_drop, test, standard_errors)
        made = cls(stages, exits, heads=heads)
        made._calibration = found
        return made

    @property
    def exits(self) -> tuple[Exit, ...]:
        """The tests, one after each stage but the last."""
        return tuple(self._exits)

    @property
    def calibration(self) -> Calibration | None:
        """What `calibrated` found, or None."""
        return self._calibration

    def report(
        self,
        data: Tensor,
        labels: Tensor | None = None,
        metric: Callable[[Tensor], float] | None = None,
        budget: Any = None,
    ) -> CascadeReport:
        """Runs the cascade over data one row a call, and says where rows leave and how long they take.

        data: inputs float32 [rows, ...]; for streams [time, streams, ...], run from a reset; their past is put back afterwards.
        labels, metric: as of `calibrated`; then the report compares the cascade with its last stage.
        budget: an `rt.Budget`, judged on the worst path: a call that goes through all stages.

        Raises ShapeError for data that do not fit, FormatError for labels and metrics that do not.
        """
        return report_on(self, data, labels, metric, budget)

    def explain(self) -> str:
        """The stages, what each of them is, and when a row leaves."""
        s = self._stages
        streams = f" of {s.streams} streams" if s.streams else ""
        lines = [f"cascade of {len(s.models)} stages{streams}, {self.weight_bytes} B of weights"]
        for index, model in enumerate(s.models):
            own, count = model.native
            lines.append(f"  {index}  {model._options.title}, {model._options.scheme}, {own} of {count} stages native")
            if s.heads:
                lines.append(f"     head {s.heads[index]._options.title}, {s.heads[index]._options.scheme}")
            if index and model._options.states is not None:
                kept = "makes its step nevertheless" if s.advance[index] else "keeps its past as it is"
                lines.append(f"     for a stream that left earlier it {kept}")
            lines.append(f"     {self._after(index)}")
        if self._calibration is not None:
            lines.append(str(self._calibration))
        return "\n".join(lines)

    def _after(self, index: int) -> str:
        if index == len(self._exits):
            return "answers what is left"
        one = self._exits[index]
        name = one.test if isinstance(one.test, str) else f"{getattr(one.test, '__name__', 'a function')} (in Python)"
        if one.test == "value":
            name = f"output {one.index}"
        return f"a row leaves where {name} {'<=' if one.above is None else '>='} {one.threshold:.6g}"

    def _check_loop(self, op: str) -> None:
        if any(callable(one.test) for one in self._exits):
            raise UnsupportedProblem(
                op, "a cascade with a test in Python", "native tests: a loop has a thread without the GIL",
                "Take a named test of rt.Exit.",
            )  # fmt: skip

    def __repr__(self) -> str:
        return f"Cascade({len(self._stages.models)} stages, exit={list(self._exits)})"
