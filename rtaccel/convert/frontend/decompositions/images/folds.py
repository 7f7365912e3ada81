"""`F.fold` as sums of shifted blocks, which is what overlapping frames are added up by."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import pad


def fold(
    x: Tensor, output_size: Sequence[int], kernel_size: Sequence[int], dilation: Sequence[int], padding: Sequence[int],
    stride: Sequence[int],
) -> Tensor:  # fmt: skip
    """x [N, C * kernel, positions] -> [N, C, *output_size].

    A kernel of at most r strides is r blocks of a stride each. The blocks of one number lie side by side and are one image;
    the image of block i is shifted by i strides, and the images are added up.
    """
    if x.dim() != 3 or any(d != 1 and k != 1 for d, k in zip(dilation, kernel_size)):
        raise NotImplementedError
    places = [(o + 2 * p - k) // s + 1 for o, p, k, s in zip(output_size, padding, kernel_size, stride)]
    (rows, columns), (high, wide), (down, right) = places, kernel_size, stride
    by_rows, by_columns = -(-high // down), -(-wide // right)
    channels = x.shape[1] // (high * wide)  # to find it, torch would ask for the number of samples
    blocks = x.reshape(x.shape[0], channels, high, wide, rows, columns)
    blocks = pad(blocks, (0, 0, 0, 0, 0, by_columns * right - wide, 0, by_rows * down - high))
    total: Tensor | None = None
    for i in range(by_rows):
        for j in range(by_columns):
            part = blocks[:, :, i * down : (i + 1) * down, j * right : (j + 1) * right]
            image = part.permute(0, 1, 4, 2, 5, 3).reshape(x.shape[0], channels, rows * down, columns * right)
            image = pad(
                image,
                (j * right, (by_columns - 1 - j) * right, i * down, (by_rows - 1 - i) * down),
            )
            total = image if total is None else total + image
    assert total is not None
    size = [total.shape[2], total.shape[3]]
    more = [o + p - s for o, p, s in zip(output_size, padding, size)]  # a negative one cuts
    return pad(total, (-padding[1], more[1], -padding[0], more[0]))
