"""Dead positions: rows of a value that nothing reads are not computed.

A causal network whose head reads only the newest time step needs, layer by layer, only the time steps that its dilated taps
reach: a third of the work for a TCN of four levels. Needs go backwards from the outputs, then values shrink.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rtaccel.convert.frontend.nodes import ROW_WISE, Buffer, OpNode


def eliminate_dead_rows(op_nodes: list[OpNode], buffers: dict[str, Buffer], kept: set[str]) -> list[OpNode]:
    """The same nodes on values without rows that nobody reads. buffers is changed accordingly."""
    needs: dict[str, set[int]] = {}
    whole = set(kept)
    for op_node in reversed(op_nodes):
        _ask(op_node, buffers, needs, whole)
    rows = {
        name: sorted(need)
        for name, need in needs.items()
        if name not in whole and len(need) < buffers[name].steps and any(name in d.writes for d in op_nodes)
    }
    return _shrink(op_nodes, buffers, rows, kept)


def _wanted(name: str, buffers: dict[str, Buffer], needs: dict[str, set[int]], whole: set[str]) -> set[int]:
    return set(range(buffers[name].steps)) if name in whole else needs.get(name, set())


def _ask(op_node: OpNode, buffers: dict[str, Buffer], needs: dict[str, set[int]], whole: set[str]) -> None:
    """Adds what the node must read for what is asked of it."""
    if op_node.op not in (*ROW_WISE, "rearrange", "conv") or len(op_node.writes) != 1:
        whole.update(op_node.reads)
        # Of a recurrent layer the newest time step may be all that is computed; its states are what they are.
        whole.update(op_node.writes[1:] if op_node.op in ("lstm", "gru") else op_node.writes)
        return
    out = op_node.writes[0]
    wanted = _wanted(out, buffers, needs, whole)
    for index, name in enumerate(op_node.reads):
        needed = needs.setdefault(name, set())
        if op_node.op == "rearrange":
            if "rows" in op_node.attrs:
                needed.update(op_node.attrs["rows"][i] for i in wanted)
            else:
                whole.add(name)
        elif op_node.op == "conv" and index == 0:
            if buffers[name].steps == 1:
                whole.add(name)  # a flat image
                continue
            for position in wanted:
                needed.update(_taps(op_node.attrs, position))
        else:
            needed.update(wanted)


def _shrink(
    op_nodes: list[OpNode], buffers: dict[str, Buffer], rows: dict[str, list[int]], outputs: set[str]
) -> list[OpNode]:
    kept: list[OpNode] = []
    renamed: dict[str, str] = {}
    gathered: dict[tuple[str, tuple[int, ...]], str] = {}

    def had(name: str) -> list[int]:
        return rows.get(name) or list(range(buffers[name].steps))

    def fit(op_node: OpNode, name: str, wanted: list[int]) -> str:
        """The value with just the rows that are wanted: itself, or a gathered copy."""
        if had(name) == wanted:
            return name
        key = (name, tuple(wanted))
        if key not in gathered:
            gathered[key] = copy = f"{name.split(':')[0]}:rows{len(gathered)}"
            buffer = buffers[name]
            buffers[copy] = Buffer(buffer.width * len(wanted), buffer.width, buffer.dtype)
            attrs = {"rows": tuple(had(name).index(i) for i in wanted)}
            kept.append(OpNode("rearrange", op_node.node, op_node.name, [renamed.get(name, name)], [copy], attrs=attrs))
        return gathered[key]

    for op_node in op_nodes:
        if op_node.op in ROW_WISE and len(op_node.writes) == 1:
            wanted = had(op_node.writes[0])
            op_node.reads = [fit(op_node, name, wanted) for name in op_node.reads]
        elif op_node.op == "rearrange" and "rows" in op_node.attrs:
            source, out = op_node.reads[0], op_node.writes[0]
            own = had(source)
            picked = [own.index(op_node.attrs["rows"][i]) for i in had(out)]
            op_node.attrs["rows"] = tuple(picked)
            same = picked == list(range(len(own))) and buffers[source].width == buffers[out].width
            if same and source in rows and out not in outputs:
                renamed[out] = renamed.get(source, source)
                continue
        elif op_node.op == "rearrange":
            out, index = op_node.writes[0], op_node.attrs["index"]
            width = buffers[out].width
            op_node.attrs["index"] = tuple(e for i in had(out) for e in index[i * width : (i + 1) * width])
        elif op_node.op == "conv":
            out = op_node.writes[0]
            if op_node.reads[0] in rows:
                op_node.attrs["in_steps"] = tuple(rows[op_node.reads[0]])
            if out in rows:
                op_node.attrs["out_steps"] = tuple(rows[out])
            op_node.reads[1:] = [fit(op_node, name, had(out)) for name in op_node.reads[1:]]
        elif op_node.op in ("lstm", "gru") and op_node.writes[0] in rows and _newest(op_node, rows[op_node.writes[0]]):
            op_node.attrs["last_only"] = 1
        elif op_node.op in ("lstm", "gru"):
            rows.pop(op_node.writes[0], None)
        op_node.reads = [renamed.get(name, name) for name in op_node.reads]
        kept.append(op_node)
    for name, own in rows.items():
        buffers[name] = replace(buffers[name], elements=buffers[name].width * len(own))
    return kept


def _newest(op_node: OpNode, wanted: list[int]) -> bool:
    """Whether just the last time step of each inner sample is read, in a layer that runs in one direction."""
    time, batch = op_node.attrs["time"], op_node.attrs["batch"]
    first = op_node.attrs["batch_first"]
    last = [b * time + time - 1 if first else (time - 1) * batch + b for b in range(batch)]
    return op_node.attrs["directions"] == 1 and wanted == last


def _taps(attrs: dict[str, Any], position: int) -> list[int]:
    """The positions of the input that one output of a convolution reads."""
    (height, width), (kernel_h, kernel_w) = attrs["in_size"], attrs["kernel"]
    row, column = divmod(position, attrs["out_size"][1])
    top = row * attrs["stride"][0] - attrs["padding"][0]
    left = column * attrs["stride"][1] - attrs["padding"][1]
    rows = [top + i * attrs["dilation"][0] for i in range(kernel_h)]
    columns = [left + i * attrs["dilation"][1] for i in range(kernel_w)]
    return [r * width + c for r in rows if 0 <= r < height for c in columns if 0 <= c < width]
