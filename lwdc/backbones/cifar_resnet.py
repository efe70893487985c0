"""CIFAR ResNets (He et al. 2015), registered with timm.

``cifar_resnet20`` of section 4.2 has the paper's parameter-free shortcuts (option A), ``cifar_resnet20b`` 1x1
convolutions (option B); likewise 8, 32, 44, 56 and 110. ``cifar_resnet18`` and ``cifar_resnet34`` have the stages of
the ImageNet networks (table 1), 64 to 512 channels wide, with option B, behind a 3x3 stem that keeps the map: ours
after common practice.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.classifier import create_classifier
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

CIFAR_CFG = {
    "url": "",
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
    "first_conv": "conv1",
    "classifier": "linear",
}

Shortcut = Callable[[int, int, int], nn.Module]  # in channels, out channels, stride


class PadShortcut(nn.Module):
    """Option A: every ``stride``-th pixel, then zero channels, equally many before and behind."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        extra = out_channels - in_channels
        self.before, self.behind = extra // 2, extra - extra // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.behind))


def conv_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Option B: a 1x1 convolution and batch norm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: ``(B, in, H, W) -> (B, out, ceil(H / stride), ...)``."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.ReLU(inplace=True)
        same = stride == 1 and in_channels == out_channels
        self.downsample = nn.Identity() if same else shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.act2(y + self.downsample(x))


class CifarResNet(nn.Module):
    """Stages ``layer1`` ... of basic blocks: ``(B, in_chans, H, W) -> (B, num_classes)``.

    ``blocks`` is how many a stage holds, each or all alike, ``channels`` the width of each stage; all stages but the
    first halve the map. Any image size will do.
    """

    def __init__(
        self,
        *,
        blocks: int | Sequence[int],
        shortcut: Shortcut,
        channels: Sequence[int] = (16, 32, 64),
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.act1 = nn.ReLU(inplace=True)
        self.feature_info = []
        width = channels[0]
        counts = [blocks] * len(channels) if isinstance(blocks, int) else blocks
        if len(counts) != len(channels):
            raise ValueError(f"blocks={blocks} and channels={channels} are not of as many stages")
        for i, (out, count) in enumerate(zip(channels, counts, strict=True)):
            strides = [1 if i == 0 else 2] + [1] * (count - 1)
            stage = [BasicBlock(width if j == 0 else out, out, s, shortcut) for j, s in enumerate(strides)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
            self.feature_info.append({"num_chs": out, "reduction": 2**i, "module": f"layer{i + 1}"})
            width = out
        self.num_features = self.head_hidden_size = width
        self.drop_rate = drop_rate
        self.reset_classifier(num_classes, global_pool)
        _initialise(self)

    def get_classifier(self) -> nn.Module:
        return self.linear

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Replaces the classifier by a fresh one, in place; 0 classes leave none."""
        self.num_classes = num_classes
        self.global_pool, self.linear = create_classifier(self.num_features, num_classes, pool_type=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's map: ``(B, num_features, H / 4, W / 4)`` for three stages, of eighths for four."""
        x = self.act1(self.bn1(self.conv1(x)))
        for stage in self.feature_info:
            x = getattr(self, stage["module"])(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits from a map, or the pooled features before the classifier."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.linear(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _register(name: str, **shape: Any) -> None:
    stages = len(shape.get("channels", (16, 32, 64)))

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        indices = {"out_indices": tuple(range(stages))}
        return build_model_with_cfg(CifarResNet, name, pretrained, feature_cfg=indices, **{**shape, **kwargs})

    entry.__name__ = name  # timm registers a function under its own name
    register_model(entry)


DEPTHS = (8, 20, 32, 44, 56, 110)
WIDE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
NAMES = [
    *(f"cifar_resnet{depth}{option}" for depth in DEPTHS for option in ("", "b")),
    *map("cifar_resnet{}".format, WIDE),
]
default_cfgs = dict.fromkeys(NAMES, CIFAR_CFG)
for _depth in DEPTHS:
    # Three stages of two-convolution blocks, the stem and the classifier: depth = 6 blocks + 2.
    _register(f"cifar_resnet{_depth}", blocks=(_depth - 2) // 6, shortcut=PadShortcut)
    _register(f"cifar_resnet{_depth}b", blocks=(_depth - 2) // 6, shortcut=conv_shortcut)
for _depth, _blocks in WIDE.items():
    _register(f"cifar_resnet{_depth}", blocks=_blocks, shortcut=conv_shortcut, channels=(64, 128, 256, 512))
