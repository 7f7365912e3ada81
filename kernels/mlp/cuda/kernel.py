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
from rtaccel.kernels.mlp.cuda.config import KernelConfig, select_cluster, select_config

FILES = (*PERSISTENT_FILES, "mlp/cuda/config.h")

AUTOENCODER = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)

DECLARED: Mapping[str, tuple[tuple[int, ...], int]] = {
    "mlp 256-384-384-128 int8": ((256, 384, 384, 128), 0),
    "autoencoder int8": (AUTOENCODER, 0),
    "autoencoder int4": (AUTOENCODER, 32),
    "mlp 256-512-512-128 int4": ((256, 512, 512, 128), 32),
    "mlp 64-32-8 int8": ((64, 32, 8), 0),
    "mlp 256-512-512-128 int8": ((256, 512, 512, 128), 0),
    "mlp 512-1024-1024-512 int4": ((512, 1024, 1024, 512), 32),
}
"""Widths and group of int4 weights of the networks that are compiled for every architecture without a card. Between layers
there is a ReLU."""

PARAMETERS = (
    ("request_ptr", "*i64"), ("reply_ptr", "*i64"), ("control_ptr", "*i64"), ("words_ptr", "*i32"), ("numbers_ptr", "*i32"),
    ("inverse", "fp32"), ("zero_point", "i32"), ("idle_looks", "i32"), ("second", "i32"),
)  # fmt: skip


def kernel_of(config: KernelConfig) -> CudaKernel:
    weights = f"int4g{config.group}" if config.group else "int8"
    parts = f"_P{config.parts}" if config.parts > 1 else ""
    network = f"{'-'.join(map(str, config.widths))}_{'-'.join(config.activations)}"
    return CudaKernel(
        "mlp/cuda/chain.cu", "rtaccel_chain", PARAMETERS, num_warps=config.all_threads // 32,
        name=f"mlp_chip_{weights}_{network}{parts}_S{config.shared_bytes}",
        includes=FILES, definitions=tuple(config.definitions().items()), shared_bytes=config.shared_bytes,
        cluster=config.parts if config.parts > 1 else 0,
    )  # fmt: skip


def declared(name: str, card: Card) -> tuple[KernelConfig, CudaKernel] | str:
    """One of DECLARED, as it is for a card, or why it has no form there."""
    widths, group = DECLARED[name]
    activations = ("relu",) * (len(widths) - 2) + ("none",)
    config = select_config(widths, activations, group, card)
    if isinstance(config, str):
        config = select_cluster(widths, activations, group, card)
    return config if isinstance(config, str) else (config, kernel_of(config))


def _lines(weight: Tensor, group: int) -> Tensor:
    """int8 [..., lines * 16 or 32] -> [..., lines, 16] bytes."""
    if not group:
        return weight.unflatten(-1, (-1, 16))
    low, high = weight.unflatten(-1, (-1, 2, 16)).unbind(-2)
    return ((low.int() & 15) | (high.int() & 15) << 4).to(torch.uint8).view(torch.int8)


def _steps(weight: Tensor, config: KernelConfig, layer: int) -> Tensor:
    """int8 [parts, own, K] -> [parts, steps, threads, 16]."""
    passes, rows, each, lanes = config.passes(layer), config.rows(layer), config.each(layer), config.lanes[layer]
    padded = torch.zeros((config.parts, passes * rows, each * lanes * config.line), dtype=torch.int8)
    padded[:, : weight.shape[1], : weight.shape[2]] = weight
    lines = _lines(padded, config.group).view(config.parts, passes, rows, each, lanes, 16)
    return lines.permute(0, 3, 1, 2, 4, 5).reshape(config.parts, each * passes, rows * lanes, 16)


def _by_part(values: Tensor, config: KernelConfig, layer: int) -> Tensor:
    """[N, ...] -> [parts, own, ...], zeros behind the last."""
    own = config.own(layer)
    padded = values.new_zeros((config.parts * own, *values.shape[1:]))
    padded[: values.shape[0]] = values
    return padded.view(config.parts, own, *values.shape[1:])


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
            words.append(_steps(_by_part(weight, config, i), config, i))
            zeros = 0 if config.group else -layer["x_zero_point"]  # int4: in the offset
            of_outputs = [layer["multiplier"].expand(weight.shape[0]), layer["offset"]]
            of_outputs.append((zeros * weight.sum(1, dtype=torch.int32)).view(torch.float32))
            of_outputs += [layer["group_scale"]] if config.group else []
            numbers += [_by_part(part.cpu().float(), config, i).flatten(1) for part in of_outputs]
            zero_point = torch.tensor([layer["y_zero_point"]], dtype=torch.int32).view(torch.float32)
            behind = torch.cat([torch.tensor([float(layer["activation_parameter"])]), zero_point])
            numbers.append(behind.expand(config.parts, 2))
        bits = torch.cat(numbers, 1).contiguous().view(torch.int32).flatten()
        packed = torch.cat(words, 1).contiguous().view(torch.int32).flatten()
        return cls(packed, bits, low["inv_scale"], low["zero_point"])

    @property
    def weights(self) -> dict[str, Tensor]:
        """What other weights change, by the names of a kernel's arguments."""
        return {"words_ptr": self.words, "numbers_ptr": self.numbers}

    @property
    def scalars(self) -> dict[str, float | int]:
        """What they do not."""
        return {"inverse": self.inverse, "zero_point": self.zero_point}
