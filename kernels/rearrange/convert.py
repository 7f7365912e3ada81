"""What passes ask of `rearrange`: which rows it copies, and what it is in a stream."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.row_traits import (
    Narrowing,
    RowsNeeded,
    SameRows,
    Streaming,
    StreamWalk,
    TimeSpan,
    later,
    not_streamable,
)
from rtaccel.core.step_windows import step_windows
from rtaccel.core.traits import Node


def _needed(node: Node, index: int, steps: int, wanted: Collection[int]) -> Iterable[int] | None:
    return [node.attrs["rows"][i] for i in wanted] if "rows" in node.attrs else None


def _narrow(node: Node, values: Narrowing) -> bool:
    x, y = node.reads[0], node.writes[0]
    if "rows" not in node.attrs:
        if values.is_narrowed(y):
            index, width = node.attrs["index"], values.width(y)
            node.attrs["index"] = tuple(e for i in values.rows_of(y) for e in index[i * width : (i + 1) * width])
        return False
    own = values.rows_of(x)
    place = {row: i for i, row in enumerate(own)}
    picked = [place[node.attrs["rows"][i]] for i in values.rows_of(y)]
    node.attrs["rows"] = tuple(picked)
    return picked == list(range(len(own))) and values.width(x) == values.width(y)


ROWS = RowsNeeded(_needed, _narrow)


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan | SameRows:
    """Rows of a value: a run of them is another shift, the newest alone is the time step itself. Or the same elements of each."""
    rows, span = node.attrs.get("rows"), spans[0]
    if not span.steps:
        return span
    if span.lead or span.rest or not span.is_by_rows(walk.width(node.reads[0])):
        return _by_elements(node, span, walk)
    if rows is None and (columns := _columns(node, span, walk)) is not None:
        node.attrs = {"index": columns}
        return TimeSpan(span.shift, span.steps, span.receptive_field, 1, len(columns))
    if rows is None and (columns := _of_newest(node, span, walk)) is not None:
        node.attrs = {"index": columns}
        return TimeSpan(0, 0, span.receptive_field)
    if rows is None:
        rows = _turned(node, walk)
    if rows is None:
        return _by_elements(node, span, walk)
    if rows != tuple(range(rows[0], rows[0] + len(rows))):
        raise _refused(node)
    if len(rows) > 1 or span.steps == 1:
        return SameRows(TimeSpan(span.shift + rows[0], len(rows), span.receptive_field))
    if rows[0] != walk.newest(span):
        raise not_streamable(f"{node.name}, which reads another time step than the newest")
    return SameRows(TimeSpan(0, 0, span.receptive_field))


def _by_elements(node: Node, span: TimeSpan, walk: StreamWalk) -> TimeSpan:
    """The same elements of every time step, which lie in one piece or in several; or elements of the newest alone."""
    if (windows := _windows(node, span, walk)) is not None:
        return windows
    if span.lead or span.rest:
        raise not_streamable(f"{node.name}, of a value that is no whole number of time steps")
    inner, width = span.inner or walk.width(node.reads[0]), walk.width(node.writes[0])
    if not inner or not width:
        raise _refused(node)
    index = np.asarray(_indices(node, walk))
    times, places = index // inner % span.steps, index // (inner * span.steps) * inner + index % inner
    if bool((times == walk.newest(span)).all()):
        node.attrs = {"index": tuple(places.tolist())}
        return TimeSpan(0, 0, span.receptive_field)
    made = int((times != times[0]).argmax())  # elements of a time step that lie side by side
    if not made or len(index) % (made * span.steps) or made % width:
        return _of_newest_few(node, span, walk, times, places)
    own = places.reshape(-1, span.steps, made)
    if bool((times.reshape(own.shape) != np.arange(span.steps)[:, None]).any()) or bool((own != own[:, :1]).any()):
        return _of_newest_few(node, span, walk, times, places)
    node.attrs = {"index": tuple(own[:, 0].flatten().tolist())}
    return TimeSpan(span.shift, span.steps, span.receptive_field, len(own), made)


def _refused(node: Node) -> UnsupportedProblem:
    return not_streamable(f"{node.name}, which picks other elements than whole time steps in order")


def _of_newest_few(
    node: Node, span: TimeSpan, walk: StreamWalk, times: NDArray[np.int64], places: NDArray[np.int64]
) -> TimeSpan:
    """Elements of the last few time steps, fewer than half of the window. times, places: of each, and in it."""
    newest, count = walk.newest(span), span.outer * (span.inner or walk.width(node.reads[0]))
    back = int((newest - times).max())
    if bool((times > newest).any()) or back > walk.length // 2:
        raise _refused(node)
    name = walk.since(node, node.reads[0], span.shift) if 0 < span.shift <= walk.length // 2 else node.reads[0]
    node.reads = [walk.recent(node, name, count, (back + 1) * count)]
    node.attrs = {"index": tuple(((back - newest + times) * count + places).tolist())}
    return TimeSpan(0, 0, later(span, back))


def _windows(node: Node, span: TimeSpan, walk: StreamWalk) -> TimeSpan | None:
    """Rows of the same elements, each row so many elements later, over several time steps: frames that overlap. Else None."""
    inner, width = span.inner or walk.width(node.reads[0]), walk.width(node.writes[0])
    index = np.asarray(_indices(node, walk))
    if span.outer != 1 or not width or len(index) < 2 * width or len(index) % width:
        return None
    frames = index.reshape(-1, width)
    stride, first = int(frames[1, 0] - frames[0, 0]), int(frames[0].min())
    length = int(frames[0].max()) - first + 1
    if bool((np.diff(frames, axis=0) != stride).any()):
        return None
    windows = step_windows(inner, stride, first - span.lead, length)
    if windows is None or windows.count == inner or len(frames) < windows.per_step:
        return None
    own = frames[: windows.per_step] - first + windows.offset
    node.reads = [walk.recent(node, node.reads[0], inner, windows.count)]
    node.attrs = {"index": tuple(own.flatten().tolist())}
    return windows.span(span, inner, len(frames), width)


def _indices(node: Node, walk: StreamWalk) -> Sequence[int]:
    """The element of the input that each of the result is."""
    if "rows" not in node.attrs:
        indices: Sequence[int] = node.attrs["index"]
        return indices
    width = walk.width(node.reads[0])
    return [row * width + column for row in node.attrs["rows"] for column in range(width)]


def _columns(node: Node, span: TimeSpan, walk: StreamWalk) -> tuple[int, ...] | None:
    """The elements that are picked of a row, where they are the same of every row, and rows stay in order; else None."""
    index, steps, width = node.attrs["index"], span.steps or 1, walk.width(node.reads[0])
    if not width or len(index) % steps:
        return None
    made = len(index) // steps
    columns: tuple[int, ...] = tuple(index[:made])
    same = all(index[r * made + c] == r * width + column for r in range(steps) for c, column in enumerate(columns))
    return columns if same and max(columns) < width else None


def _of_newest(node: Node, span: TimeSpan, walk: StreamWalk) -> tuple[int, ...] | None:
    """The elements that are picked of the newest row, where no other row is read; else None."""
    width = walk.width(node.reads[0])
    columns: tuple[int, ...] = tuple(e - walk.newest(span) * width for e in node.attrs["index"])
    return columns if width and min(columns) >= 0 and max(columns) < width else None


def _turned(node: Node, walk: StreamWalk) -> tuple[int, ...] | None:
    """The time steps of an input [features, time] that are turned round, all or a part: a single one lies the same either way."""
    x, index = node.reads[0], node.attrs["index"]
    if not walk.is_input(x):
        return None
    width = walk.width(x)
    steps = range(index[0], index[0] + len(index) // width)
    turned = tuple(c * walk.length + r for r in steps for c in range(width))
    return tuple(steps) if index == turned and walk.width(node.writes[0]) == width else None


STREAMING = Streaming(_step, any_layout=True, edges=True)
