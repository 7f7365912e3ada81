"""Reports of changed layers as notebooks and pandas show them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rtaccel.core.errors import BackendUnavailable


def html_table(rows: Sequence[Sequence[str]], last: str, notes: Sequence[str] = ()) -> str:
    """rows: the first is the head. Every text is escaped."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    under = "".join(f"<p>{html.escape(text)}</p>" for text in (last, *(f"note: {note}" for note in notes)))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{under}"


def text_table(rows: Sequence[Sequence[str]], last: str, notes: Sequence[str] = ()) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, last, *(f"note: {note}" for note in notes)])


def dataframe(op: str, entries: Iterable[Any]) -> Any:
    """A row for each entry, a column for each field. Raises BackendUnavailable without pandas."""
    try:
        import pandas
    except ImportError as error:
        step = "Install it with `pip install 'rtaccel[table]'`, or use to_json()."
        raise BackendUnavailable(op, "no pandas here", "pandas, which makes the table", step) from error
    from dataclasses import fields

    made = list(entries)
    names = [f.name for f in fields(made[0])] if made else None
    return pandas.DataFrame([asdict(entry) for entry in made], columns=names)
