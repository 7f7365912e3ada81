"""Vision at the edge: classifiers, segmenters and embedders of small images."""

from __future__ import annotations

from typing import Any

from bench.zoo.entry import Entry, Made, Output
from bench.zoo.inputs import image


def torchvision(model: str, size: int = 96, **options: Any) -> Entry:
    def make() -> Made:
        import torchvision.models as models

        return models.get_model(model, weights=None, **options), (image(3, size),)

    return Entry(model, "torchvision", make)


def timm(model: str, size: int = 96, **options: Any) -> Entry:
    def make() -> Made:
        import timm as package

        return package.create_model(model, pretrained=False, **options), (image(3, size),)

    return Entry(model, "timm", make)


def efficientnet() -> Made:
    from efficientnet_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-b0", image_size=96), (image(3, 96),)


def segmenter(kind: str, encoder: str, size: int = 96) -> Entry:
    def make() -> Made:
        import segmentation_models_pytorch as smp

        return getattr(smp, kind)(encoder, encoder_weights=None, classes=4), (image(3, size),)

    return Entry(f"{kind.lower()}_{encoder}", "segmentation-models-pytorch", make)


def deeplab() -> Made:
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    return Output(model, "out"), (image(3, 96),)


def facenet() -> Made:
    from facenet_pytorch import InceptionResnetV1

    return InceptionResnetV1(pretrained=None, classify=False), (image(3, 112),)


def pytorchcv(model: str, size: int, **options: Any) -> Entry:
    def make() -> Made:
        from pytorchcv.model_provider import get_model

        return get_model(model, pretrained=False, **options), (image(3, size),)

    return Entry(model, "pytorchcv", make)


ENTRIES = (
    torchvision("mobilenet_v2"),
    torchvision("mobilenet_v3_small"),
    torchvision("shufflenet_v2_x0_5"),
    torchvision("squeezenet1_1"),
    torchvision("mnasnet0_5"),
    torchvision("resnet18", 64),
    torchvision("regnet_y_400mf", 64),
    torchvision("efficientnet_b0", 64),
    timm("mobilenetv4_conv_small"),
    timm("lcnet_050"),
    timm("tinynet_e"),
    timm("ghostnet_050"),
    timm("resnet10t", 64),
    timm("repvgg_a0", 64),
    timm("mobileone_s0", 64),
    timm("convnext_atto", 64),
    timm("edgenext_xx_small", 96),
    timm("mobilevit_xxs", 128),
    timm("efficientvit_b0", 96),
    timm("fastvit_t8", 64),
    timm("starnet_s1", 64),
    timm("vit_tiny_patch16_224", 96, img_size=96),
    timm("mixer_s32_224", 224),
    timm("levit_128s", 224),
    timm("swin_tiny_patch4_window7_224", 56, img_size=56, embed_dim=48),
    timm("poolformer_s12", 64),
    Entry("efficientnet_pytorch_b0", "efficientnet-pytorch", efficientnet),
    segmenter("Unet", "mobilenet_v2", 64),
    segmenter("FPN", "resnet18", 64),
    Entry("lraspp_mobilenet_v3", "torchvision", deeplab, "picks the output `out`"),
    Entry("facenet_inception_resnet", "facenet-pytorch", facenet),
    pytorchcv("mobilenet_wd4", 224),
    pytorchcv("igcv3_wd4", 224),
    pytorchcv("menet108_8x1_g3", 224),
)
