"""Transformers: small encoders and decoders of Hugging Face from configurations, and those of single-paper packages."""

from __future__ import annotations

from typing import Any

import torch

from bench.zoo.entry import Entry, Made, Output
from bench.zoo.inputs import image, series, tokens

SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def hugging_face(
    name: str, model: str, config: str, which: str = "last_hidden_state", length: int = 32, **options: Any
) -> Entry:
    """A model class with a configuration of its own, over `length` tokens of a vocabulary of 500."""

    def make() -> Made:
        import transformers as hf

        built = getattr(hf, model)(getattr(hf, config)(vocab_size=500, use_cache=False, **options))
        return Output(built, which), (tokens(length, 500),)

    return Entry(name, "transformers", make, f"picks the output `{which}`")


def vit_pytorch(name: str, module: str, cls: str, size: int = 64, **options: Any) -> Entry:
    def make() -> Made:
        import importlib

        built = getattr(importlib.import_module(module), cls)(**options)
        return built, (image(3, size),)

    return Entry(name, "vit-pytorch", make)


def x_transformers_decoder() -> Made:
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=64, depth=2, heads=4, rotary_pos_emb=True, use_rmsnorm=True, ff_swish=True, ff_glu=True)
    return TransformerWrapper(num_tokens=500, max_seq_len=64, attn_layers=layers), (tokens(32, 500),)


def x_transformers_encoder() -> Made:
    from x_transformers import ContinuousTransformerWrapper, Encoder

    layers = Encoder(dim=64, depth=2, heads=4, rel_pos_bias=True)
    return ContinuousTransformerWrapper(dim_in=8, dim_out=4, max_seq_len=64, attn_layers=layers), (series(32, 8),)


def perceiver() -> Made:
    from perceiver_pytorch import PerceiverIO

    built = PerceiverIO(
        depth=2, dim=16, queries_dim=16, logits_dim=4, num_latents=16, latent_dim=32, cross_heads=1, latent_heads=2,
        cross_dim_head=16, latent_dim_head=16,
    )  # fmt: skip
    return built, (series(64, 16), torch.randn(1, 8, 16))


def perceiver_queries() -> Entry:
    def make() -> Made:
        built, (data, queries) = perceiver()
        return Queried(built), (data, queries)

    return Entry("perceiver_io", "perceiver-pytorch", make, "passes the queries by keyword")


class Queried(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        return self.model(data, queries=queries)


def linformer() -> Made:
    from linformer import Linformer

    return Linformer(dim=64, seq_len=64, depth=2, heads=4, k=16), (series(64, 64),)


def performer() -> Made:
    from performer_pytorch import Performer

    return Performer(dim=64, depth=2, heads=4, dim_head=16), (series(64, 64),)


def nystrom() -> Made:
    from nystrom_attention import Nystromformer

    return Nystromformer(dim=64, depth=2, heads=4, dim_head=16, num_landmarks=16), (series(64, 64),)


def local_attention() -> Made:
    from local_attention import LocalTransformer

    built = LocalTransformer(
        num_tokens=256, dim=64, depth=2, max_seq_len=64, causal=True, local_attn_window_size=16, heads=4
    )
    return built, (tokens(64, 256),)


def mlp_mixer() -> Made:
    from mlp_mixer_pytorch import MLPMixer

    return MLPMixer(image_size=64, channels=3, patch_size=8, dim=64, depth=4, num_classes=10), (image(3, 64),)


def gated_mlp() -> Made:
    from g_mlp_pytorch import gMLPVision

    return gMLPVision(image_size=64, patch_size=8, num_classes=10, dim=64, depth=4), (image(3, 64),)


def soft_moe() -> Made:
    from soft_moe_pytorch import SoftMoE

    return SoftMoE(dim=64, seq_len=32, num_experts=4), (series(32, 64),)


def torch_encoder() -> Made:
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True, activation="gelu")
    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (series(32, 64),)


def torch_decoder() -> Made:
    layer = torch.nn.TransformerDecoderLayer(64, 4, 128, batch_first=True)
    return torch.nn.TransformerDecoder(layer, 2), (series(16, 64), series(32, 64))


LLAMA: dict[str, Any] = {**SMALL, "num_key_value_heads": 2}
ENTRIES = (
    hugging_face("bert", "BertModel", "BertConfig", **SMALL),
    hugging_face("distilbert", "DistilBertModel", "DistilBertConfig", dim=64, n_layers=2, n_heads=4, hidden_dim=128),
    hugging_face("albert", "AlbertModel", "AlbertConfig", embedding_size=32, **SMALL),
    hugging_face(
        "mobilebert",
        "MobileBertModel",
        "MobileBertConfig",
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        embedding_size=32,
        intra_bottleneck_size=32,
        true_hidden_size=32,
    ),
    hugging_face("electra", "ElectraModel", "ElectraConfig", embedding_size=32, **SMALL),
    hugging_face("gpt2", "GPT2LMHeadModel", "GPT2Config", "logits", n_embd=64, n_layer=2, n_head=4, n_positions=64),
    hugging_face("llama", "LlamaForCausalLM", "LlamaConfig", "logits", **LLAMA),
    hugging_face("qwen2", "Qwen2ForCausalLM", "Qwen2Config", "logits", **LLAMA),
    hugging_face(
        "modernbert",
        "ModernBertModel",
        "ModernBertConfig",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
        **SMALL,
    ),
    hugging_face("mamba", "MambaModel", "MambaConfig", hidden_size=64, num_hidden_layers=2, state_size=8),
    hugging_face("fnet", "FNetModel", "FNetConfig", hidden_size=64, num_hidden_layers=2, intermediate_size=128),
    Entry("nn_transformer_encoder", "torch", torch_encoder),
    Entry("nn_transformer_decoder", "torch", torch_decoder),
    vit_pytorch(
        "simple_vit",
        "vit_pytorch.simple_vit",
        "SimpleViT",
        image_size=64,
        patch_size=8,
        num_classes=10,
        dim=64,
        depth=2,
        heads=4,
        mlp_dim=128,
        dim_head=16,
    ),
    vit_pytorch(
        "cct",
        "vit_pytorch.cct",
        "CCT",
        img_size=(64, 64),
        embedding_dim=64,
        n_conv_layers=2,
        kernel_size=3,
        stride=2,
        padding=1,
        num_layers=2,
        num_heads=4,
        mlp_ratio=2.0,
        num_classes=10,
        positional_embedding="learnable",
    ),
    vit_pytorch(
        "nest",
        "vit_pytorch.nest",
        "NesT",
        image_size=64,
        patch_size=4,
        dim=32,
        heads=2,
        num_hierarchies=3,
        block_repeats=(1, 1, 2),
        num_classes=10,
    ),
    Entry("x_transformers_decoder", "x-transformers", x_transformers_decoder),
    Entry("x_transformers_encoder", "x-transformers", x_transformers_encoder),
    perceiver_queries(),
    Entry("linformer", "linformer", linformer),
    Entry("performer", "performer-pytorch", performer),
    Entry("nystromformer", "nystrom-attention", nystrom),
    Entry("local_transformer", "local-attention", local_attention),
    Entry("mlp_mixer", "mlp-mixer-pytorch", mlp_mixer),
    Entry("g_mlp", "g-mlp-pytorch", gated_mlp),
    Entry("soft_moe", "soft-moe-pytorch", soft_moe),
)
