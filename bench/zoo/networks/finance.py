"""Finance and tables: networks over columns of numbers and categories, and forecasters of price series."""

from __future__ import annotations

from typing import Any

import torch

from bench.zoo.entry import Entry, Made, Output
from bench.zoo.inputs import observation, series

COLUMNS, CATEGORIES = 12, (8, 5, 20)


def _categories() -> torch.Tensor:
    return torch.stack([torch.randint(0, count, (1,)) for count in CATEGORIES], 1)


def rtdl(model: str, **options: Any) -> Any:
    def make() -> Made:
        import rtdl_revisiting_models as models

        return getattr(models, model)(d_in=COLUMNS, d_out=1, n_blocks=3, d_block=64, **options), (observation(COLUMNS),)

    return make


def ft_transformer() -> Made:
    from rtdl_revisiting_models import FTTransformer

    built = FTTransformer(
        n_cont_features=COLUMNS, cat_cardinalities=list(CATEGORIES), d_out=1, n_blocks=2, d_block=32, attention_n_heads=4,
        attention_dropout=0.0, ffn_d_hidden_multiplier=2, ffn_dropout=0.0, residual_dropout=0.0,
    )  # fmt: skip
    return built, (observation(COLUMNS), _categories())


def tab_transformer() -> Made:
    from tab_transformer_pytorch import TabTransformer

    built = TabTransformer(
        categories=CATEGORIES, num_continuous=COLUMNS, dim=32, depth=2, heads=4, dim_head=8, mlp_act=torch.nn.ReLU()
    )
    return built, (_categories(), observation(COLUMNS))


def tabnet() -> Made:
    from pytorch_tabnet.tab_network import TabNetNoEmbeddings

    return Output(TabNetNoEmbeddings(COLUMNS, 1), 0), (observation(COLUMNS),)


def tabnet_entmax() -> Made:
    from pytorch_tabnet.tab_network import TabNetNoEmbeddings

    return Output(TabNetNoEmbeddings(COLUMNS, 1, mask_type="entmax"), 0), (observation(COLUMNS),)


def deepctr(name: str, model: str, deep: bool = True, **options: Any) -> Entry:
    """Click-through models: three columns of categories and two of numbers."""

    def make() -> Made:
        import deepctr_torch.models as models
        from deepctr_torch.inputs import DenseFeat, SparseFeat

        columns = [SparseFeat(f"c{i}", n, embedding_dim=8) for i, n in enumerate(CATEGORIES)]
        columns += [DenseFeat("d0", 1), DenseFeat("d1", 1)]
        built = getattr(models, model)(columns, columns, device="cpu", **options)
        return Columns(built), (_categories(), observation(2))

    return Entry(
        name, "deepctr-torch", make, "joins int64 categories and numbers to the float32 row that forward takes"
    )


class Columns(torch.nn.Module):
    """deepctr-torch reads categories out of one float32 row."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, categories: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return self.model(torch.cat((categories.to(numbers.dtype), numbers), 1))


def tft() -> Made:
    from neuralforecast.models import TFT

    from bench.zoo.networks.timeseries import Window

    return Window(TFT(h=6, input_size=24, hidden_size=16, n_head=2, max_steps=1)), (series(24, 1),)


def nixtla(name: str, model: str, **options: Any) -> Entry:
    def make() -> Made:
        import neuralforecast.models as models

        from bench.zoo.networks.timeseries import Window

        return Window(getattr(models, model)(h=6, input_size=32, max_steps=1, **options)), (series(32, 1),)

    return Entry(name, "neuralforecast", make, DICT)


DICT = "hands in the window as the dict that forward takes"
ENTRIES = (
    Entry("rtdl_mlp", "rtdl-revisiting-models", rtdl("MLP", dropout=0.0)),
    Entry("rtdl_resnet", "rtdl-revisiting-models", rtdl("ResNet", d_hidden_multiplier=2.0, dropout1=0.0, dropout2=0.0)),
    Entry("ft_transformer", "rtdl-revisiting-models", ft_transformer),
    Entry("tab_transformer", "tab-transformer-pytorch", tab_transformer),
    Entry("tabnet", "pytorch-tabnet", tabnet, "picks the first output"),
    Entry("tabnet_entmax", "pytorch-tabnet", tabnet_entmax, "picks the first output"),
    deepctr("deepfm", "DeepFM", dnn_hidden_units=(64, 32)),
    deepctr("dcn", "DCN", dnn_hidden_units=(64, 32)),
    deepctr("xdeepfm", "xDeepFM", dnn_hidden_units=(64, 32), cin_layer_size=(16, 8)),
    deepctr("autoint", "AutoInt", dnn_hidden_units=(64, 32)),
    Entry("tft", "neuralforecast", tft, DICT),
    nixtla("nixtla_lstm", "LSTM", encoder_hidden_size=32, encoder_n_layers=2, decoder_hidden_size=32),
    nixtla("nixtla_gru", "GRU", encoder_hidden_size=32, encoder_n_layers=2, decoder_hidden_size=32),
    nixtla("nixtla_tcn", "TCN", encoder_hidden_size=16, decoder_hidden_size=32),
    nixtla("kan_forecast", "KAN", hidden_size=16),
    nixtla("deep_npts", "DeepNPTS", hidden_size=16),
    nixtla("nixtla_mlp", "MLP", hidden_size=64, num_layers=2),
)
