"""`torch.nn.utils.rnn.pack_padded_sequence` and what reads its result, captured with the lengths as a tensor.

A packed sequence has as many rows as the lengths add up to, which no graph of fixed shapes can hold. Here it stays padded.
Recurrent layers get the lengths beside it (`rtaccel::packed_lstm` and its kind). What is done row by row is done on padding too.
"""

from __future__ import annotations

from rtaccel.convert.frontend.packed.longest import check_longest
from rtaccel.convert.frontend.packed.mode import packed_sequences

__all__ = ["check_longest", "packed_sequences"]
