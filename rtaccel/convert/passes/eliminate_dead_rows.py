"""Dead positions: rows of a value that nothing reads are not computed.

A causal network whose head reads only the newest moment needs, layer by layer, only the moments that its dilated taps
reach: a third of the work for a TCN of four levels. Needs go backwards from the outputs, then values shrink.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rtaccel.convert.frontend.nodes import ROW_WISE, Draft, Slot


def trim(drafts: list[Draft], slots: dict[str, Slot], kept: set[str]) -> list[Draft]:
    """The same drafts on values without rows that nobody reads. `slots` is changed accordingly."""
    needs: dict[str, set[int]] = {}
    whole = set(kept)
    for draft in reversed(drafts):
        _ask(draft, slots, needs, whole)
    rows = {
        name: sorted(need)
        for name, need in needs.items()
        if name not in whole and len(need) < slots[name].steps and any(name in d.writes for d in drafts)
    }
    return _shrink(drafts, slots, rows, kept)


def _wanted(name: str, slots: dict[str, Slot], needs: dict[str, set[int]], whole: set[str]) -> set[int]:
    return set(range(slots[name].steps)) if name in whole else needs.get(name, set())


def _ask(draft: Draft, slots: dict[str, Slot], needs: dict[str, set[int]], whole: set[str]) -> None:
    """Adds what the draft must read for what is asked of it."""
    if draft.op not in (*ROW_WISE, "rearrange", "conv") or len(draft.writes) != 1:
        whole.update(draft.reads)
        # Of a recurrent layer the newest moment may be all that is computed; its states are what they are.
        whole.update(draft.writes[1:] if draft.op in ("lstm", "gru") else draft.writes)
        return
    out = draft.writes[0]
    wanted = _wanted(out, slots, needs, whole)
    for index, name in enumerate(draft.reads):
        needed = needs.setdefault(name, set())
        if draft.op == "rearrange":
            if "rows" in draft.attrs:
                needed.update(draft.attrs["rows"][i] for i in wanted)
            else:
                whole.add(name)
        elif draft.op == "conv" and index == 0:
            if slots[name].steps == 1:
                whole.add(name)  # a flat image
                continue
            for position in wanted:
                needed.update(_taps(draft.attrs, position))
        else:
            needed.update(wanted)


def _shrink(drafts: list[Draft], slots: dict[str, Slot], rows: dict[str, list[int]], outputs: set[str]) -> list[Draft]:
    kept: list[Draft] = []
    renamed: dict[str, str] = {}
    gathered: dict[tuple[str, tuple[int, ...]], str] = {}

    def had(name: str) -> list[int]:
        return rows.get(name) or list(range(slots[name].steps))

    def fit(draft: Draft, name: str, wanted: list[int]) -> str:
        """The value with just the rows that are wanted: itself, or a gathered copy."""
        if had(name) == wanted:
            return name
        key = (name, tuple(wanted))
        if key not in gathered:
            gathered[key] = copy = f"{name.split(':')[0]}:rows{len(gathered)}"
            slot = slots[name]
            slots[copy] = Slot(slot.width * len(wanted), slot.width, slot.dtype)
            attrs = {"rows": tuple(had(name).index(i) for i in wanted)}
            kept.append(Draft("rearrange", draft.node, draft.name, [renamed.get(name, name)], [copy], attrs=attrs))
        return gathered[key]

    for draft in drafts:
        if draft.op in ROW_WISE and len(draft.writes) == 1:
            wanted = had(draft.writes[0])
            draft.reads = [fit(draft, name, wanted) for name in draft.reads]
        elif draft.op == "rearrange" and "rows" in draft.attrs:
            source, out = draft.reads[0], draft.writes[0]
            own = had(source)
            picked = [own.index(draft.attrs["rows"][i]) for i in had(out)]
            draft.attrs["rows"] = tuple(picked)
            same = picked == list(range(len(own))) and slots[source].width == slots[out].width
            if same and source in rows and out not in outputs:
                renamed[out] = renamed.get(source, source)
                continue
        elif draft.op == "rearrange":
            out, index = draft.writes[0], draft.attrs["index"]
            width = slots[out].width
            draft.attrs["index"] = tuple(e for i in had(out) for e in index[i * width : (i + 1) * width])
        elif draft.op == "conv":
            out = draft.writes[0]
            if draft.reads[0] in rows:
                draft.attrs["in_steps"] = tuple(rows[draft.reads[0]])
            if out in rows:
                draft.attrs["out_steps"] = tuple(rows[out])
            draft.reads[1:] = [fit(draft, name, had(out)) for name in draft.reads[1:]]
        elif draft.op in ("lstm", "gru") and draft.writes[0] in rows and _newest(draft, rows[draft.writes[0]]):
            draft.attrs["last_only"] = 1
        elif draft.op in ("lstm", "gru"):
            rows.pop(draft.writes[0], None)
        draft.reads = [renamed.get(name, name) for name in draft.reads]
        kept.append(draft)
    for name, own in rows.items():
        slots[name] = replace(slots[name], elements=slots[name].width * len(own))
    return kept


def _newest(draft: Draft, wanted: list[int]) -> bool:
    """Whether just the last moment of each inner sample is read, in a layer that runs in one direction."""
    time, batch = draft.attrs["time"], draft.attrs["batch"]
    first = draft.attrs["batch_first"]
    last = [b * time + time - 1 if first else (time - 1) * batch + b for b in range(batch)]
    return draft.attrs["directions"] == 1 and wanted == last


def _taps(attrs: dict[str, Any], position: int) -> list[int]:
    """The positions of the input that one output of a convolution reads."""
    (height, width), (kernel_h, kernel_w) = attrs["in_size"], attrs["kernel"]
    row, column = divmod(position, attrs["out_size"][1])
    top = row * attrs["stride"][0] - attrs["padding"][0]
    left = column * attrs["stride"][1] - attrs["padding"][1]
    rows = [top + i * attrs["dilation"][0] for i in range(kernel_h)]
    columns = [left + i * attrs["dilation"][1] for i in range(kernel_w)]
    return [r * width + c for r in rows if 0 <= r < height for c in columns if 0 <= c < width]
