"""What an inference costs in bytes and joules at the edge, on the wire and in a node, from coefficients that are options."""

from __future__ import annotations

import argparse

UDP_IP = 28  # bytes of headers of UDP over IPv4
DESIGNS = (
    # name, bytes up, bytes down, edge ns, node ns: the payloads and times of the network that the page tells of
    ("all at the edge", 0, 0, "edge_full_ns", None),
    ("samples to the node", "sample_bytes", "answer_bytes", None, "node_ns"),
    ("cut at the waist", "cut_bytes", "answer_bytes", "edge_cut_ns", "node_ns"),
    ("hedged: both", "sample_bytes", "answer_bytes", "edge_full_ns", "node_ns"),
)

OPTIONS = {
    "edges": (1_000_000, "edges, one stream each"),
    "hz": (100.0, "inferences of a stream and second"),
    "frame_bytes": (104.0, "head of a frame and the descriptor of its tensor (docs/reference/frames.md)"),
    "sample_bytes": (56.0, "14 float32 features of a time step"),
    "cut_bytes": (8.0, "int8 activations at the waist of the network"),
    "answer_bytes": (4.0, "one float32"),
    "node_ns": (250.0, "of a node's core a sample, batcher included (bench.streams, Zen 3)"),
    "edge_full_ns": (20_000.0, "of an edge processor, the whole step (assumed: a small core at 200 MHz)"),
    "edge_cut_ns": (10_000.0, "the same, up to the cut"),
    "edge_watts": (0.1, "of the edge processor while it computes (assumed)"),
    "node_watts": (10.0, "of a node's core while it computes, its share of the machine included (assumed)"),
    "radio_nj_bit": (50.0, "of the edge's radio, both ways (assumed: Wi-Fi 5 to 50, LTE 100 to 1,000)"),
    "net_nj_bit": (20.0, "of the network between, by bit (assumed)"),
}


def add_paper_options(parser: argparse.ArgumentParser) -> None:
    for name, (value, help_text) in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=help_text)


def paper(given: argparse.Namespace) -> None:
    per_second = given.edges * given.hz
    print(f"{given.edges:,} edges at {given.hz:g} Hz, {given.nodes:,} nodes: {per_second:,.0f} inferences a second")
    print(f"a node: {given.edges / given.nodes:,.0f} streams, {per_second / given.nodes:,.0f} a second")
    header = (
        "bytes each",
        "edge uJ",
        "radio uJ",
        "network uJ",
        "node uJ",
        "all uJ",
        "Gbit/s in all",
        "Mbit/s a node",
        "cores a node",
        "kW",
    )
    print(f"{'':20}" + "".join(f"{h:>14}" for h in header))
    for name, up, down, edge, node in DESIGNS:
        row = costs(given, up, down, edge, node)
        total = sum(row[1:])
        bits = row[0] * 8 * per_second
        cores = (getattr(given, node) if node else 0.0) * per_second / given.nodes / 1e9
        cells = (*row, total, bits / 1e9, bits / given.nodes / 1e6, cores, total * 1e-6 * per_second / 1e3)
        print(f"{name:20}" + "".join(f"{c:14,.3f}" if c < 100 else f"{c:14,.0f}" for c in cells))


def costs(
    given: argparse.Namespace, up: str | int, down: str | int, edge: str | None, node: str | None
) -> tuple[float, float, float, float, float]:
    """(bytes, edge, radio, network, node) of an inference: bytes, and microjoules."""

    def frame(payload: str | int) -> float:
        size = getattr(given, payload) if isinstance(payload, str) else payload
        return UDP_IP + given.frame_bytes + size if size else 0.0

    moved = frame(up) + frame(down)
    computed = (getattr(given, edge) if edge else 0.0) * 1e-9 * given.edge_watts
    served = (getattr(given, node) if node else 0.0) * 1e-9 * given.node_watts
    return (
        moved,
        computed * 1e6,
        moved * 8 * given.radio_nj_bit * 1e-3,
        moved * 8 * given.net_nj_bit * 1e-3,
        served * 1e6,
    )
