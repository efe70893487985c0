"""CIFAR VGGs with batch norm, registered with timm: VGG-16's and -19's convolutions, one linear layer."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from timm.layers.classifier import create_classifier
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from lwdc.backbones.cifar_resnet import CIFAR_CFG

default_cfgs = {
    name: {**CIFAR_CFG, "first_conv": "features.0", "classifier": "classifier"}
    for name in ("cifar_vgg16_bn", "cifar_vgg19_bn")
}


class CifarVgg(nn.Module):
    """Stages of 3x3 convolutions, each ended by 2x2 max-pooling: ``(B, in_chans, H, W) -> (B, num_classes)``.

    ``blocks`` holds the convolutions of each stage, ``channels`` their width; images need at least
    ``2 ** len(channels)`` pixels a side.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int],
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_chans
        for convolutions, out in zip(blocks, channels, strict=True):
            for _ in range(convolutions):
                layers += _conv_norm_act(width, out)
                width = out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.num_features = self.head_hidden_size = width
        self.drop_rate = drop_rate
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Replaces the classifier by a fresh one, in place; 0 classes leave none."""
        self.num_classes = num_classes
        self.global_pool, self.classifier = create_classifier(self.num_features, num_classes, pool_type=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's map: ``(B, num_features, H / 32, W / 32)`` for five stages."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits from a map, or the pooled features before the classifier."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _conv_norm_act(in_channels: int, out_channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


@register_model
def cifar_vgg16_bn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """13 convolutions, 14.7M parameters."""
    settings = {"blocks": (2, 2, 3, 3, 3), **kwargs}
    return build_model_with_cfg(CifarVgg, "cifar_vgg16_bn", pretrained, **settings)


@register_model
def cifar_vgg19_bn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """16 convolutions, 20.0M parameters."""
    settings = {"blocks": (2, 2, 4, 4, 4), **kwargs}
    return build_model_with_cfg(CifarVgg, "cifar_vgg19_bn", pretrained, **settings)
