"""The stack of recurrent.cu as a kernel to compile and launch: its form as definitions, its numbers in its order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.formats import int4
from rtaccel.kernels._gpu.cuda_nvrtc import PERSISTENT_FILES, CudaKernel
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.recurrent.cuda.choice import clustering, mapping, select_config
from rtaccel.kernels.recurrent.cuda.config import Head, KernelConfig
from rtaccel.kernels.recurrent.layout import Geometry

FILES = (
    *PERSISTENT_FILES, "recurrent/cuda/cells.h", "recurrent/cuda/config.h", "recurrent/cuda/stack.h",
    "recurrent/cuda/message.h", "recurrent/cuda/weights.h",
)  # fmt: skip

RESET, SAVE, LOAD, SPOILED, RENEW, SECOND = 1, 2, 4, 8, 16, 32
"""Commands of a message, as the head of recurrent.cu has them."""

DECLARED: Mapping[str, tuple[str, Geometry, int, int, Head | None]] = {
    "lstm A int8": ("lstm", Geometry(100, layers=2), 100, 0, Head(1, "none")),
    "lstm B int8": ("lstm", Geometry(200, layers=3), 250, 0, Head(1, "none")),
    "lstm C int8": ("lstm", Geometry(1000, layers=4), 500, 0, Head(1, "none")),
    "lstm A int4": ("lstm", Geometry(100, layers=2), 100, 32, Head(1, "none", 32)),
    "lstm C int4": ("lstm", Geometry(1000, layers=4), 500, 32, Head(1, "none", 32)),
    "gru 64-128 int8": ("gru", Geometry(128), 64, 0, None),
}
"""Op, geometry, inputs, group of int4 weights and head of the networks that are compiled for every architecture without
a card: those of STAC-ML Markets (Inference), and a GRU."""

THROUGH_L2, MAPPED = ", through L2", ", mapped"
FORMS = (
    *DECLARED, f"lstm B int8{THROUGH_L2}", f"lstm A int8{MAPPED}", f"lstm B int8{MAPPED}", f"lstm C int8{MAPPED}",
)  # fmt: skip
"""And in which forms: as they are chosen, without a cluster, and with messages in the card's memory."""

PARAMETERS = (
    ("request_ptr", "*i64"), ("reply_ptr", "*i64"), ("control_ptr", "*i64"), ("past_ptr", "*i64"), ("words_ptr", "*i32"),
    ("params_ptr", "*fp32"), ("compensation_ptr", "*i32"), ("scales_ptr", "*fp32"), ("head_words_ptr", "*i32"),
    ("head_numbers_ptr", "*fp32"), ("head_compensation_ptr", "*i32"), ("exchange_ptr", "*i64"), ("x_inverse", "fp32"),
    ("x_zero_point", "i32"), ("h_inverse", "fp32"), ("y_inverse", "fp32"), ("y_zero_point", "i32"), ("idle_looks", "i32"),
    ("second", "i32"),
)  # fmt: skip


def kernel_of(op: str, kernel_config: KernelConfig) -> CudaKernel:
    """op: lstm or gru."""
    g, head = kernel_config.geometry, kernel_config.head
    ended = "states" if head is None else f"N{head.outputs}_{head.activation}"
    weights = f"int4g{kernel_config.group}" if kernel_config.group else "int8"
    return CudaKernel(
        "recurrent/cuda/recurrent.cu",
        "rtaccel_recurrent",
        PARAMETERS,
        num_warps=kernel_config.all_threads // 32,
        name=f"{op}_chip_{weights}_K{kernel_config.inputs}_H{g.hidden}_L{g.layers}_P{kernel_config.parts}_{ended}_S{kernel_config.shared_bytes}",
        includes=FILES,
        definitions=tuple(kernel_config.definitions().items()),
        shared_bytes=kernel_config.shared_bytes,
        cooperative=kernel_config.parts > 1
        and not kernel_config.cluster,  # a cluster is there as a whole or not at all
        cluster=kernel_config.parts if kernel_config.cluster else 0,
    )


def declared(name: str, card: Card) -> tuple[KernelConfig, CudaKernel]:
    """One of FORMS, as it is for a card."""
    op, geometry, inputs, group, head = DECLARED[name.partition(",")[0]]
    with clustering(not name.endswith(THROUGH_L2)), mapping(name.endswith(MAPPED)):
        kernel_config = select_config(geometry, inputs, 4 if op == "lstm" else 3, group, head, card)
    assert kernel_config is not None, name
    return kernel_config, kernel_of(op, kernel_config)


def _numbers_of(low: Mapping[str, Any], name: str, k: int, group: int) -> Tensor:
    """int8 [rows, K] of weights in either format."""
    weight = low[name].cpu()
    return int4.unpack(weight, k) if group else weight


def _lines(params: Tensor, group: int) -> Tensor:
    """int8 [..., lines * 16 or 32] -> [..., lines, 16] bytes."""
    if not group:
        return params.unflatten(-1, (-1, 16))
    low, high = params.unflatten(-1, (-1, 2, 16)).unbind(-2)
    return ((low.int() & 15) | (high.int() & 15) << 4).to(torch.uint8).view(torch.int8)


def _steps(params: Tensor, kernel_config: KernelConfig, steps: int) -> Tensor:
    """int8 [gates * H, K] -> [parts, steps * gates, threads, 16]."""
    units = kernel_config.parts * kernel_config.units
    padded = torch.zeros(
        (kernel_config.gates, units, steps * kernel_config.lanes * kernel_config.line), dtype=torch.int8
    )
    padded[:, : kernel_config.geometry.hidden, : params.shape[1]] = params.view(
        kernel_config.gates, -1, params.shape[1]
    )
    lines = _lines(padded, kernel_config.group).view(
        kernel_config.gates, kernel_config.parts, kernel_config.units, steps, kernel_config.lanes, 16
    )
    threads = lines.permute(1, 3, 0, 2, 4, 5).reshape(
        kernel_config.parts, steps * kernel_config.gates, kernel_config.units * kernel_config.lanes, 16
    )
    return torch.nn.functional.pad(threads, (0, 0, 0, kernel_config.threads - threads.shape[2]))


def _by_part(values: Tensor, kernel_config: KernelConfig) -> Tensor:
    """[rows * H, columns] -> [parts, rows, units, columns]."""
    rows = values.reshape(-1, kernel_config.geometry.hidden, values.shape[-1])
    padded = torch.nn.functional.pad(rows, (0, 0, 0, kernel_config.parts * kernel_config.units - rows.shape[1]))
    return padded.view(rows.shape[0], kernel_config.parts, kernel_config.units, -1).transpose(0, 1)


def _multiplier(value: Any, rows: int) -> Tensor:
    """float32 [rows, 1]: of int4 weights it is one number."""
    found = value.cpu().float() if isinstance(value, Tensor) else torch.full((rows,), float(value))
    return found.reshape(-1, 1)


@dataclass(frozen=True)
class Operands:
    """A stack's numbers, and its head's, as the kernel reads them: one set of them, in host memory."""

    words: Tensor
    params: Tensor
    compensation: Tensor
    scales: Tensor
    head_words: Tensor
    head_params: Tensor
    head_compensation: Tensor
    x_inverse: float
    x_zero_point: int
    h_inverse: float
    y_inverse: float
    y_zero_point: int

    @classmethod
    def of(cls, low: Mapping[str, Any], head: Mapping[str, Any] | None, kernel_config: KernelConfig) -> Operands:
        """low, head: what the contracts' `lower` give."""
        g, gates = kernel_config.geometry, kernel_config.gates
        of_x, of_h, params, scales = [], [], [], []
        for layer, _, suffix in g.suffixes():
            inputs = kernel_config.inputs if layer == 0 else g.hidden
            x = _numbers_of(low, f"weight_ih{suffix}", inputs, kernel_config.group)
            h = _numbers_of(low, f"weight_hh{suffix}", g.hidden, kernel_config.group)
            of_x.append(_steps(x, kernel_config, kernel_config.steps_x if layer == 0 else kernel_config.steps_h))
            of_h.append(_steps(h, kernel_config, kernel_config.steps_h))
            rows = [_multiplier(low[f"weight_{w}{suffix}_multiplier"], gates * g.hidden) for w in ("ih", "hh")]
            rows.append(_multiplier(low[f"bias{suffix}"], 0))
            rows += [_multiplier(low[f"bias_n{suffix}"], 0)] if gates == 3 else []
            params += [_by_part(row, kernel_config).flatten(1) for row in rows]
            if kernel_config.group:
                scales += [
                    _by_part(low[f"weight_{w}{suffix}_group_scale"].cpu().float(), kernel_config).flatten(1)
                    for w in ("ih", "hh")
                ]
        words = torch.cat([*of_x, *of_h], 1)
        first = _numbers_of(low, "weight_ih_l0", kernel_config.inputs, kernel_config.group)
        zeros = 0 if kernel_config.group else -low["x_zero_point"]  # int4: in the bias
        compensation = _by_part((zeros * first.sum(1, dtype=torch.int32)).view(-1, 1), kernel_config)
        found = (
            words.contiguous().view(torch.int32).flatten(), torch.cat(params, 1).flatten(), compensation.flatten(),
            torch.cat(scales, 1).flatten() if scales else torch.zeros(1), *_head_operands(head, kernel_config),
        )  # fmt: skip
        return cls(
            *(t.contiguous() for t in found), low["x_inv_scale"], low["x_zero_point"], low["h_inv_scale"],
            low["y_inv_scale"], low["y_zero_point"],
        )  # fmt: skip

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By the names of the kernel's arguments."""
        return {
            "words_ptr": self.words, "params_ptr": self.params, "compensation_ptr": self.compensation,
            "scales_ptr": self.scales, "head_words_ptr": self.head_words, "head_numbers_ptr": self.head_params,
            "head_compensation_ptr": self.head_compensation,
        }  # fmt: skip

    @property
    def scalars(self) -> dict[str, float]:
        """Those that a launch is given, and no message changes."""
        return {
            "x_inverse": self.x_inverse, "x_zero_point": self.x_zero_point, "h_inverse": self.h_inverse,
            "y_inverse": self.y_inverse, "y_zero_point": self.y_zero_point,
        }  # fmt: skip


def _head_operands(low: Mapping[str, Any] | None, kernel_config: KernelConfig) -> tuple[Tensor, Tensor, Tensor]:
    head = kernel_config.head
    if low is None or head is None:
        return torch.zeros(4, dtype=torch.int32), torch.zeros(1), torch.zeros(1, dtype=torch.int32)
    inputs = kernel_config.geometry.hidden
    weight = _numbers_of(low, "weight", inputs, head.group)
    padded = torch.zeros((head.outputs, kernel_config.head_lines * (32 if head.group else 16)), dtype=torch.int8)
    padded[:, :inputs] = weight
    parts = [low["multiplier"], low["offset"], torch.tensor([float(low["activation_parameter"])])]
    parts += [low["group_scale"].flatten()] if head.group else []
    zeros = 0 if head.group else -low["x_zero_point"]
    compensation = zeros * weight.sum(1, dtype=torch.int32)
    words = _lines(padded, head.group).contiguous().view(torch.int32).flatten()
    return words, torch.cat([part.cpu().float() for part in parts]), compensation
