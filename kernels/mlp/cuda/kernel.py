"""The chain of chain.cu as a kernel to compile and launch: its layout as definitions, its numbers in its order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rtaccel.core.stage import Stage
from rtaccel.formats import int4
from rtaccel.kernels._gpu.cuda_nvrtc import PERSISTENT_FILES, CudaKernel
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.mlp import contract
from rtaccel.kernels.mlp.cuda.config import KernelConfig, select_config

FILES = (*PERSISTENT_FILES, "mlp/cuda/config.h")

AUTOENCODER = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)

DECLARED: Mapping[str, tuple[tuple[int, ...], int]] = {
    "mlp 256-384-384-128 int8": ((256, 384, 384, 128), 0),
    "autoencoder int8": (AUTOENCODER, 0),
    "autoencoder int4": (AUTOENCODER, 32),
    "mlp 256-512-512-128 int4": ((256, 512, 512, 128), 32),
    "mlp 64-32-8 int8": ((64, 32, 8), 0),
}
"""Widths and group of int4 weights of the networks that are compiled for every architecture without a card. Between layers
there is a ReLU."""

PARAMETERS = (
    ("request_ptr", "*i64"), ("reply_ptr", "*i64"), ("control_ptr", "*i64"), ("words_ptr", "*i32"), ("numbers_ptr", "*i32"),
    ("inverse", "fp32"), ("zero_point", "i32"), ("idle_looks", "i32"), ("second", "i32"),
)  # fmt: skip


def kernel_of(config: KernelConfig) -> CudaKernel:
    weights = f"int4g{config.group}" if config.group else "int8"
    return CudaKernel(
        "mlp/cuda/chain.cu", "rtaccel_chain", PARAMETERS, num_warps=config.all_threads // 32,
        name=f"mlp_chip_{weights}_{'-'.join(map(str, config.widths))}_{'-'.join(config.activations)}_S{config.shared_bytes}",
        includes=FILES, definitions=tuple(config.definitions().items()), shared_bytes=config.shared_bytes,
    )  # fmt: skip


def declared(name: str, card: Card) -> tuple[KernelConfig, CudaKernel] | str:
    """One of DECLARED, as it is for a card, or why it has no form there."""
    widths, group = DECLARED[name]
    config = select_config(widths, ("relu",) * (len(widths) - 2) + ("none",), group, card)
    return config if isinstance(config, str) else (config, kernel_of(config))


def _lines(weight: Tensor, group: int) -> Tensor:
    """int8 [..., lines * 16 or 32] -> [..., lines, 16] bytes."""
    if not group:
        return weight.unflatten(-1, (-1, 16))
    low, high = weight.unflatten(-1, (-1, 2, 16)).unbind(-2)
    return ((low.int() & 15) | (high.int() & 15) << 4).to(torch.uint8).view(torch.int8)


def _steps(weight: Tensor, config: KernelConfig, layer: int) -> Tensor:
    """int8 [N, K] -> [steps, threads, 16]."""
    passes, rows, each, lanes = config.passes(layer), config.rows(layer), config.each(layer), config.lanes[layer]
    padded = torch.zeros((passes * rows, each * lanes * config.line), dtype=torch.int8)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    lines = _lines(padded, config.group).view(passes, rows, each, lanes, 16)
    return lines.permute(2, 0, 1, 3, 4).reshape(each * passes, rows * lanes, 16)


@dataclass(frozen=True)
class Operands:
    """A network's numbers as the kernel reads them: one set of them, in host memory."""

    words: Tensor
    numbers: Tensor
    inverse: float
    zero_point: int

    @classmethod
    def of(cls, stage: Stage, config: KernelConfig) -> Operands:
        low, words, numbers = contract.lower(stage), [], []
        for i, layer in enumerate(low["layers"]):
            weight = layer["weight"].cpu()
            if config.group:
                weight = int4.unpack(weight, layer["x_width"])
            words.append(_steps(weight, config, i))
            zeros = 0 if config.group else -layer["x_zero_point"]  # int4: in the offset
            numbers += [layer["multiplier"].expand(weight.shape[0]), layer["offset"]]
            numbers.append((zeros * weight.sum(1, dtype=torch.int32)).view(torch.float32))
            numbers += [layer["group_scale"].flatten()] if config.group else []
            zero_point = torch.tensor([layer["y_zero_point"]], dtype=torch.int32).view(torch.float32)
            numbers += [torch.tensor([float(layer["activation_parameter"])]), zero_point]
        bits = torch.cat([part.cpu().float() for part in numbers]).view(torch.int32)
        return cls(torch.cat(words).contiguous().view(torch.int32).flatten(), bits, low["inv_scale"], low["zero_point"])

    @property
    def weights(self) -> dict[str, Tensor]:
        """What other weights change, by the names of a kernel's arguments."""
        return {"words_ptr": self.words, "numbers_ptr": self.numbers}

    @property
    def scalars(self) -> dict[str, float | int]:
        """What they do not."""
        return {"inverse": self.inverse, "zero_point": self.zero_point}
