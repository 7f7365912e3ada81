"""Rows of the table that are not predicted, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

WHY: Mapping[str, str] = {
    r", torch (eager|CUDA graph) |, torch\.compile |, torchao |, gemlite |, torch (CSR|BSR|semi)|, cupy ":
        "Other packages: what they launch, and its machine code, is not known before a card has run them.",
    r"^(mlp|autoencoder) .* rtaccel .* graph$":
        "MLPs as graphs: one program reads weights from L2 between its products, which the model of launches does not count.",
    r"^LSTM.* by triton_persistent$": "Streams by Triton's kernel: its cycles are not counted.",
    r"^(LSTM_C|TCN).*, window of .* graph$":
        "Windows of LSTM_C and of convolutions: they read weights again, from caches that the model of launches does not have.",
    r" rt\.stream in a graph$": "Streams in a graph: what looks at and counts their calls is not in the model of launches.",
    r", swap and ": "Swaps: the host packs weights, and the driver copies them.",
    r"^sparse .* rtaccel (w8a8 sparse|w8a8 dense|bfloat16)$|^sparse 1x1024x1024 .* rtaccel w8a8$":
        "Forced and small sparse layers, and those in bfloat16: no goal is about them.",
    r"^sparse 1x1024x1024 .* torch dense fp16$": "torch beside small sparse layers.",
}  # fmt: skip
"""By what the name of a row has."""


def reasons(names: Iterable[str]) -> dict[str, list[str]]:
    """The rows of each reason, in the order of the reasons. Raises KeyError for a row that has none."""
    found: dict[str, list[str]] = {why: [] for why in WHY.values()}
    for name in names:
        why = next((why for pattern, why in WHY.items() if re.search(pattern, name)), None)
        if why is None:
            raise KeyError(name)
        found[why].append(name)
    return found


def lines(names: Iterable[str]) -> list[str]:
    """Of the page."""
    made = ["", "## Not predicted", ""]
    for why, rows in reasons(names).items():
        made.append(f"- {why} {len(rows)} rows, such as `{rows[0]}`.")
    return made
