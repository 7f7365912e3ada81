"""Frames: what travels between the halves of a model, checked before a number of it is used."""

from rtaccel.serve.frames.end import Head, Reader, Writer, key_of, parse
from rtaccel.serve.frames.refusal import REASONS, FrameRefused
from rtaccel.serve.frames.wires import WIRES, Wire, wire_of

__all__ = ["REASONS", "WIRES", "FrameRefused", "Head", "Reader", "Wire", "Writer", "key_of", "parse", "wire_of"]
