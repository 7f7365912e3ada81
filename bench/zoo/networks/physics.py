"""Physics: neural operators, implicit representations, networks of splines, and neural differential equations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.zoo.entry import Entry, Made
from bench.zoo.inputs import channels_first, image, observation


def fno(size: tuple[int, ...], **options: Any) -> Any:
    def make() -> Made:
        from neuralop.models import FNO

        built = FNO(
            n_modes=tuple(8 for _ in size), in_channels=2, out_channels=1, hidden_channels=16, n_layers=2, **options
        )
        return built, (image(2, *size) if len(size) == 2 else channels_first(2, *size),)

    return make


def tucker_fno() -> Made:
    from neuralop.models import TFNO

    return TFNO(n_modes=(8, 8), in_channels=1, out_channels=1, hidden_channels=16, n_layers=2, rank=0.3), (
        image(1, 16),
    )


def uno() -> Made:
    from neuralop.models import UNO

    built = UNO(
        1, 1, 16, lifting_channels=16, projection_channels=16, n_layers=3, uno_out_channels=[16, 16, 16],
        uno_n_modes=[[4, 4]] * 3, uno_scalings=[[1.0, 1.0], [0.5, 0.5], [2.0, 2.0]],
        channel_mlp_skip="linear",
    )  # fmt: skip
    return built, (image(1, 16),)


def siren() -> Made:
    from siren_pytorch import SirenNet

    return SirenNet(dim_in=3, dim_hidden=64, dim_out=1, num_layers=4), (torch.rand(1, 3) * 2 - 1,)


def kan(**options: Any) -> Any:
    def make() -> Made:
        from kan import KAN

        return KAN(width=[4, 8, 1], grid=5, k=3, auto_save=False, save_act=False, **options), (
            torch.rand(1, 4) * 2 - 1,
        )

    return make


def deepxde(cls: str, *shape: Any, activation: str = "tanh") -> Any:
    def make() -> Made:
        import os

        os.environ["DDE_BACKEND"] = "pytorch"
        import deepxde.nn.pytorch as networks

        return getattr(networks, cls)(*shape, activation, "Glorot uniform"), (observation(3),)

    return make


def deeponet() -> Made:
    import os

    os.environ["DDE_BACKEND"] = "pytorch"
    from deepxde.nn.pytorch import DeepONet

    return Pair(DeepONet([32, 64, 32], [2, 64, 32], "tanh", "Glorot uniform")), (observation(32), observation(2))


class Pair(nn.Module):
    """A network that takes its two inputs as one tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.model((first, second))


def neural_ode() -> Made:
    from torchdiffeq import odeint

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 6))
            self.register_buffer("times", torch.linspace(0, 1, 5))

        def forward(self, state: torch.Tensor) -> torch.Tensor:
            return odeint(lambda _, y: self.field(y), state, self.times, method="rk4")[-1]

    return Flow(), (observation(6),)


def monai(name: str, model: str, size: int, inputs: int = 1, **options: Any) -> Entry:
    def make() -> Made:
        import monai.networks.nets as nets

        return getattr(nets, model)(**options), (image(inputs, size),)

    return Entry(name, "monai", make)


PLANE = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
ENTRIES = (
    Entry("fno_1d", "neuraloperator", fno((64,))),
    Entry("fno_2d", "neuraloperator", fno((16, 16))),
    Entry("tfno_2d", "neuraloperator", tucker_fno),
    Entry("uno_2d", "neuraloperator", uno),
    Entry("siren", "siren-pytorch", siren),
    Entry("kan", "pykan", kan()),
    Entry("kan_no_symbolic", "pykan", kan(symbolic_enabled=False)),
    Entry("deepxde_fnn", "deepxde", deepxde("FNN", [3, 64, 64, 64, 1])),
    Entry("deepxde_pfnn", "deepxde", deepxde("PFNN", [3, [32, 32], [32, 32], 2], activation="sin")),
    Entry("deeponet", "deepxde", deeponet, "hands both inputs over as one tuple"),
    Entry("neural_ode_rk4", "torchdiffeq", neural_ode, "four steps of rk4 over a field of two linear layers"),
    monai("monai_unet", "UNet", 32, channels=(8, 16, 32), strides=(2, 2), num_res_units=1, **PLANE),
    monai("monai_basic_unet", "BasicUNet", 32, features=(8, 8, 16, 32, 32, 8), **PLANE),
    monai("monai_segresnet", "SegResNet", 32, init_filters=8, **PLANE),
    monai("monai_attention_unet", "AttentionUnet", 32, channels=(8, 16, 32), strides=(2, 2), **PLANE),
)
