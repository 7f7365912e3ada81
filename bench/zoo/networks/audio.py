"""Audio: separation, enhancement, recognition, codecs and front ends that start from samples."""

from __future__ import annotations

import torch

from bench.zoo.entry import Entry, Made, Output
from bench.zoo.inputs import image, sound, spectrum

LENGTHS = "the number of frames is an int64 input"


def conv_tasnet() -> Made:
    from torchaudio.models import ConvTasNet

    built = ConvTasNet(
        enc_kernel_size=16,
        enc_num_feats=64,
        msk_num_feats=32,
        msk_num_hidden_feats=64,
        msk_num_layers=4,
        msk_num_stacks=2,
    )
    return built, (sound(1600),)


def wav2letter() -> Made:
    from torchaudio.models import Wav2Letter

    return Wav2Letter(num_classes=29, input_type="mfcc", num_features=13), (spectrum(13, 60),)


def deepspeech() -> Made:
    from torchaudio.models import DeepSpeech

    return DeepSpeech(n_feature=26, n_hidden=128, n_class=29), (spectrum(50, 26, 1, 1),)


def conformer() -> Made:
    from torchaudio.models import Conformer

    built = Conformer(input_dim=64, num_heads=4, ffn_dim=128, num_layers=2, depthwise_conv_kernel_size=15)
    return built, (spectrum(50, 64), torch.tensor([50]))


def emformer() -> Made:
    from torchaudio.models import Emformer

    built = Emformer(64, 4, 128, 2, segment_length=4, left_context_length=8, right_context_length=1)
    return built, (spectrum(41, 64), torch.tensor([40]))


def hdemucs() -> Made:
    from torchaudio.models import HDemucs

    return HDemucs(["a", "b"], audio_channels=1, channels=8, nfft=1024, depth=5), (sound(4096),)


def wav2vec2() -> Made:
    from torchaudio.models import wav2vec2_model

    layers = [(64, 10, 5), (64, 3, 2), (64, 3, 2), (64, 2, 2)]
    sizes = (64, 0.0, 32, 4, 2, 4, 0.0, 128, 0.0, 0.0)
    built = wav2vec2_model("group_norm", layers, False, *sizes, False, 0.0, 29)
    return Output(built, 0), (sound(4000, 1),)


def ecapa() -> Made:
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    channels = [64, 64, 64, 64, 192]
    built = ECAPA_TDNN(40, channels=channels, attention_channels=32, se_channels=32, lin_neurons=64, res2net_scale=4)
    return built, (spectrum(100, 40),)


def xvector() -> Made:
    from speechbrain.lobes.models.Xvector import Xvector

    built = Xvector(tdnn_channels=[64, 64, 64, 64, 128], in_channels=24, lin_neurons=64)
    return built, (spectrum(100, 24),)


def crdnn() -> Made:
    from speechbrain.lobes.models.CRDNN import CRDNN

    built = CRDNN(
        input_size=40, cnn_blocks=1, cnn_channels=(16,), rnn_layers=1, rnn_neurons=32, dnn_blocks=1, dnn_neurons=32,
        time_pooling=True,
    )  # fmt: skip
    return built, (spectrum(40, 40),)


def enhancement_lstm() -> Made:
    from speechbrain.lobes.models.MetricGAN import EnhancementGenerator

    return EnhancementGenerator(input_size=65, num_layers=1), (spectrum(20, 65), torch.ones(1))


def cnn14() -> Made:
    from speechbrain.lobes.models.Cnn14 import Cnn14

    return Cnn14(mel_bins=64, emb_dim=64), (spectrum(32, 64),)


def hifigan() -> Made:
    from speechbrain.lobes.models.HifiGAN import HifiganGenerator

    built = HifiganGenerator(
        in_channels=40, out_channels=1, resblock_type="1", resblock_dilation_sizes=[[1, 3, 5]], resblock_kernel_sizes=[3],
        upsample_kernel_sizes=[16, 16], upsample_initial_channel=64, upsample_factors=[8, 8],
    )  # fmt: skip
    return built, (spectrum(40, 16),)


def denoiser() -> Made:
    from denoiser.demucs import Demucs

    return Demucs(hidden=16, depth=4), (sound(2048),)


def demucs() -> Made:
    from demucs.demucs import Demucs

    return Demucs(["a", "b"], audio_channels=1, channels=8, depth=4, lstm_layers=1), (sound(4096),)


def open_unmix() -> Made:
    from openunmix.model import OpenUnmix

    return OpenUnmix(nb_bins=129, nb_channels=1, hidden_size=64, nb_layers=2), (spectrum(129, 20, 1, 1).abs(),)


def seanet_encoder() -> Made:
    from encodec.modules import SEANetEncoder

    return SEANetEncoder(dimension=32, n_filters=8, ratios=[4, 4, 2], lstm=1), (sound(1600),)


def seanet_decoder() -> Made:
    from encodec.modules import SEANetDecoder

    return SEANetDecoder(dimension=32, n_filters=8, ratios=[4, 4, 2], lstm=1), (spectrum(32, 25),)


def snac_encoder() -> Made:
    from snac import SNAC

    built = SNAC(
        encoder_dim=16, encoder_rates=[2, 4, 4], decoder_dim=64, decoder_rates=[4, 4, 2], attn_window_size=None
    )
    return built.encoder, (sound(1024),)


def vocos() -> Made:
    from vocos.heads import ISTFTHead
    from vocos.models import VocosBackbone

    backbone = VocosBackbone(input_channels=40, dim=64, intermediate_dim=128, num_layers=4)
    return torch.nn.Sequential(backbone, ISTFTHead(dim=64, n_fft=256, hop_length=64)), (spectrum(40, 32),)


def vocos_backbone() -> Made:
    from vocos.models import VocosBackbone

    return VocosBackbone(input_channels=40, dim=64, intermediate_dim=128, num_layers=4), (spectrum(40, 32),)


def squeezeformer() -> Made:
    from squeezeformer.model import SqueezeformerEncoder

    built = SqueezeformerEncoder(
        input_dim=40, encoder_dim=64, num_layers=4, num_attention_heads=4, reduce_layer_index=1, recover_layer_index=2
    )
    return built, (spectrum(64, 40), torch.tensor([64]))


def conformer_block() -> Made:
    from conformer import ConformerBlock

    return ConformerBlock(dim=64, dim_head=16, heads=4, ff_mult=2, conv_kernel_size=15), (spectrum(50, 64),)


def mel_front_end() -> Made:
    from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

    return torch.nn.Sequential(MelSpectrogram(16000, 400, hop_length=160, n_mels=40), AmplitudeToDB()), (
        sound(1600, 1),
    )


def mfcc() -> Made:
    from torchaudio.transforms import MFCC

    return MFCC(16000, 13, melkwargs={"n_fft": 400, "hop_length": 160, "n_mels": 40}), (sound(1600, 1),)


def nnaudio_mel() -> Made:
    from nnAudio.features import MelSpectrogram

    return MelSpectrogram(sr=16000, n_fft=400, hop_length=160, n_mels=40, verbose=False), (sound(1600, 1),)


def filterbank() -> Made:
    from asteroid_filterbanks import Encoder, FreeFB

    return Encoder(FreeFB(n_filters=64, kernel_size=16, stride=8)), (sound(1600),)


def whisper_encoder() -> Made:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        num_mel_bins=40,
        d_model=64,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=128,
        max_source_positions=50,
    )
    return Output(WhisperEncoder(config), "last_hidden_state"), (spectrum(40, 100),)


def yamnet_like() -> Made:
    import timm

    return timm.create_model("mobilenetv3_small_050", pretrained=False, in_chans=1, num_classes=50), (image(1, 64, 96),)


AUDIO = ("torchaudio",)
ENTRIES = (
    Entry("conv_tasnet", "torchaudio", conv_tasnet),
    Entry("wav2letter", "torchaudio", wav2letter),
    Entry("deepspeech", "torchaudio", deepspeech),
    Entry("conformer", "torchaudio", conformer, LENGTHS),
    Entry("emformer", "torchaudio", emformer, LENGTHS),
    Entry("hdemucs", "torchaudio", hdemucs),
    Entry("wav2vec2", "torchaudio", wav2vec2, "picks the first output"),
    Entry("mel_front_end", "torchaudio", mel_front_end),
    Entry("mfcc_front_end", "torchaudio", mfcc),
    Entry("nnaudio_mel", "nnaudio", nnaudio_mel),
    Entry("ecapa_tdnn", "speechbrain", ecapa, also=AUDIO),
    Entry("xvector", "speechbrain", xvector, also=AUDIO),
    Entry("crdnn", "speechbrain", crdnn, also=AUDIO),
    Entry("enhancement_blstm", "speechbrain", enhancement_lstm, also=AUDIO),
    Entry("cnn14", "speechbrain", cnn14, also=AUDIO),
    Entry("hifigan", "speechbrain", hifigan, also=AUDIO),
    Entry("denoiser_demucs", "denoiser", denoiser, also=AUDIO),
    Entry("demucs", "demucs", demucs, also=AUDIO),
    Entry("open_unmix", "openunmix", open_unmix, also=AUDIO),
    Entry("encodec_encoder", "encodec", seanet_encoder, also=AUDIO),
    Entry("encodec_decoder", "encodec", seanet_decoder, also=AUDIO),
    Entry("snac_encoder", "snac", snac_encoder),
    Entry("vocos", "vocos", vocos, also=AUDIO),
    Entry("vocos_backbone", "vocos", vocos_backbone, also=AUDIO),
    Entry("squeezeformer", "squeezeformer", squeezeformer, LENGTHS),
    Entry("conformer_block", "conformer", conformer_block),
    Entry("asteroid_filterbank", "asteroid-filterbanks", filterbank),
    Entry("whisper_encoder", "transformers", whisper_encoder, "picks the output `last_hidden_state`"),
    Entry("mel_mobilenet", "timm", yamnet_like),
)
