"""What a report object shows in a notebook, and its figures as a pandas DataFrame (extra `table`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rtaccel.core.errors import BackendUnavailable


@dataclass(frozen=True)
class Table:
    """Cells as text. text: how many of the first columns are words; the rest are figures, to the right.

    notes: sentences under the table.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 1
    notes: Sequence[str] = ()

    def html(self) -> str:
        """Without style sheet, script or color of its own but what a notebook gives its tables."""
        head = "".join(f'<th style="text-align:{self._side(i)}">{escape(h)}</th>' for i, h in enumerate(self.head))
        body = "".join(f"<tr>{''.join(self._cell(i, c) for i, c in enumerate(row))}</tr>" for row in self.rows)
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        caption = f'<caption style="text-align:left"><b>{escape(self.caption)}</b></caption>'
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"

    def _cell(self, index: int, text: str) -> str:
        return f'<td style="text-align:{self._side(index)}">{escape(text)}</td>'

    def _side(self, index: int) -> str:
        return "left" if index < self.text else "right"


class Tabled:
    """A result with `records`, flat rows of plain values, and `table`, the same for people."""

    def records(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def table(self) -> Table:
        raise NotImplementedError

    def to_dataframe(self) -> Any:
        """A pandas DataFrame of `records()`. Raises BackendUnavailable where pandas is not installed."""
        return dataframe(self.records())

    def _repr_html_(self) -> str:
        return self.table().html()


def dataframe(records: Sequence[dict[str, Any]]) -> Any:
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            "to_dataframe", "no pandas", "pandas, which holds the table", "pip install 'rtaccel[table]'"
        ) from error
    return pd.DataFrame(list(records))
