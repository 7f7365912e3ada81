"""Time series: forecasters and classifiers of windows."""

from __future__ import annotations

from typing import Any

import torch

from bench.zoo.entry import Entry, Made, Output
from bench.zoo.inputs import channels_first, observation, series


def tcn(name: str, **options: Any) -> Entry:
    def make() -> Made:
        from pytorch_tcn import TCN

        return TCN(num_inputs=8, num_channels=[16, 16, 16], kernel_size=3, **options), (channels_first(8, 64),)

    return Entry(name, "pytorch-tcn", make)


def tsai(name: str, model: str, channels: int = 3, classes: int = 4, steps: int = 64, **options: Any) -> Entry:
    """A classifier of windows; those that ask for the window's length get it."""

    def make() -> Made:
        import inspect

        import tsai.models.all as models

        cls = getattr(models, model)
        names = inspect.signature(cls.__init__).parameters
        given = {"seq_len": steps} if "seq_len" in names else {}
        return cls(c_in=channels, c_out=classes, **given, **options), (channels_first(channels, steps),)

    return Entry(name, "tsai", make)


def itransformer() -> Made:
    from iTransformer import iTransformer

    built = iTransformer(num_variates=8, lookback_len=48, depth=2, dim=64, pred_length=12, dim_head=16, heads=4)
    return built, (series(48, 8),)


def nbeats() -> Made:
    from nbeats_pytorch.model import NBeatsNet

    built = NBeatsNet(backcast_length=48, forecast_length=12, hidden_layer_units=64, nb_blocks_per_stack=2)
    return built, (series(48, 1)[:, :, 0],)


def etsformer() -> Made:
    from etsformer_pytorch import ETSFormer

    built = ETSFormer(time_features=4, model_dim=32, embed_kernel_size=3, layers=2, heads=4, K=4)
    return Output(built, slice(None), num_steps_forecast=4), (series(48, 4),)


def mamba() -> Made:
    from mambapy.mamba import Mamba, MambaConfig

    return Mamba(MambaConfig(d_model=32, n_layers=2, d_state=8)), (series(32, 32),)


def s5() -> Made:
    from s5 import S5

    return S5(32, 32), (series(64, 32),)


def min_gru() -> Made:
    from minGRU_pytorch.minGRU import minGRU

    return minGRU(32), (series(32, 32),)


def min_lstm() -> Made:
    from minGRU_pytorch.minLSTM import minLSTM

    return minLSTM(32), (series(32, 32),)


def xlstm() -> Made:
    from xlstm import mLSTMBlockConfig, mLSTMLayerConfig, xLSTMBlockStack, xLSTMBlockStackConfig

    config = xLSTMBlockStackConfig(
        mlstm_block=mLSTMBlockConfig(mlstm=mLSTMLayerConfig(conv1d_kernel_size=4, qkv_proj_blocksize=4, num_heads=4)),
        context_length=32, num_blocks=2, embedding_dim=32,
    )  # fmt: skip
    return xLSTMBlockStack(config), (series(32, 32),)


def spiking() -> Made:
    import snntorch as snn

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.fire = torch.nn.Linear(16, 32), snn.Leaky(beta=0.9)

        def forward(self, x: torch.Tensor, membrane: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.fire(self.first(x), membrane)

    return Net(), (observation(16), torch.rand(1, 32))


def hf_series(name: str, model: str, config: str, which: str, **options: Any) -> Entry:
    def make() -> Made:
        import transformers as hf

        built = getattr(hf, model)(getattr(hf, config)(**options))
        return Output(built, which), (series(options["context_length"], options["num_input_channels"]),)

    return Entry(name, "transformers", make, f"picks the output `{which}`")


def nixtla(name: str, model: str, **options: Any) -> Entry:
    """A univariate model of neuralforecast, over a window of 48 values."""

    def make() -> Made:
        import neuralforecast.models as models

        built = getattr(models, model)(h=12, input_size=48, max_steps=1, **options)
        return Window(built), (series(48, 1),)

    return Entry(name, "neuralforecast", make, "hands in the window as the dict that forward takes")


class Window(torch.nn.Module):
    """forward of neuralforecast's models takes a dict; those without exogenous inputs read `insample_y` alone."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        mask = torch.ones_like(y)
        return self.model(
            {"insample_y": y, "insample_mask": mask, "hist_exog": None, "futr_exog": None, "stat_exog": None}
        )


def gluonts(name: str, module: str, cls: str, mask: bool = True, **options: Any) -> Entry:
    """Gives the parameters of the forecast's distribution, its location and scale."""

    def make() -> Made:
        import importlib

        built = getattr(importlib.import_module(f"gluonts.torch.model.{module}"), cls)(
            prediction_length=12, context_length=48, **options
        )
        values = series(48, 1)[:, :, 0]
        return built, (values, torch.ones_like(values)) if mask else (values,)

    return Entry(name, "gluonts", make)


PATCHES = {
    "context_length": 64, "prediction_length": 12, "num_input_channels": 4, "patch_length": 8, "d_model": 32,
}  # fmt: skip
ENTRIES = (
    tcn("tcn_causal"),
    tcn("tcn_skip", causal=False, use_skip_connections=True, use_norm="layer_norm", activation="gelu"),
    tsai("inception_time", "InceptionTime", nf=8),
    tsai("xception_time", "XceptionTime", nf=4),
    tsai("tsai_resnet", "ResNet"),
    tsai("tsai_fcn", "FCN"),
    tsai("tsai_tcn", "TCN"),
    tsai("omni_scale_cnn", "OmniScaleCNN", layers=[3 * 16, 16 * 8], steps=32),
    tsai("tsai_tst", "TST", d_model=32, n_heads=4, d_ff=64),
    tsai("tsai_gmlp", "gMLP", d_model=32, depth=2, patch_size=4),
    tsai("lstm_fcn", "LSTM_FCN", hidden_size=32),
    tsai("gru_fcn", "GRU_FCN", hidden_size=32, steps=32),
    tsai("tsai_sequencer", "TSSequencerPlus", d_model=32, depth=2),
    tsai("mwdn", "mWDN", levels=3),
    tsai("xcm", "XCM"),
    tsai("tsai_patch_tst", "PatchTST", pred_dim=12, d_model=32, n_heads=4, d_ff=64, n_layers=2),
    Entry("itransformer", "itransformer", itransformer),
    Entry("nbeats", "nbeats-pytorch", nbeats),
    Entry("etsformer", "etsformer-pytorch", etsformer),
    Entry("mamba_py", "mambapy", mamba),
    Entry("s5", "s5-pytorch", s5),
    Entry("min_gru", "minGRU-pytorch", min_gru),
    Entry("min_lstm", "minGRU-pytorch", min_lstm),
    Entry("xlstm", "xlstm", xlstm),
    Entry("snn_leaky", "snntorch", spiking, "a linear layer before a leaky neuron, its membrane as input and output"),
    hf_series(
        "patchtst",
        "PatchTSTForPrediction",
        "PatchTSTConfig",
        "prediction_outputs",
        **PATCHES,
        patch_stride=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
    ),
    hf_series(
        "patchtsmixer",
        "PatchTSMixerForPrediction",
        "PatchTSMixerConfig",
        "prediction_outputs",
        **PATCHES,
        patch_stride=8,
        num_layers=2,
    ),
    nixtla("nhits", "NHITS", mlp_units=[[64, 64]] * 3),
    nixtla("dlinear", "DLinear"),
    nixtla("tide", "TiDE", hidden_size=32, decoder_output_dim=8, temporal_decoder_dim=16),
    nixtla("nixtla_patch_tst", "PatchTST", hidden_size=32, n_heads=4, encoder_layers=2, linear_hidden_size=64),
    nixtla("times_net", "TimesNet", hidden_size=16, conv_hidden_size=16, encoder_layers=1),
    nixtla("dilated_rnn", "DilatedRNN", encoder_hidden_size=16, dilations=[[1, 2], [4, 8]], decoder_hidden_size=16),
    gluonts("gluonts_dlinear", "d_linear.module", "DLinearModel", hidden_dimension=20),
    gluonts(
        "gluonts_feedforward",
        "simple_feedforward.module",
        "SimpleFeedForwardModel",
        mask=False,
        hidden_dimensions=[40, 40],
    ),
)
