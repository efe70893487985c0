"""1-D networks on raw sound, registered with timm: SoundNet-8 (Aytar et al. 2016) and M5 (Dai et al. 2017).

``soundnet8`` has the paper's first seven convolutions and its pools; the eighth, which names objects and scenes
at every position, is an average over time and a linear layer here. ``m5`` has the paper's layers; its softmax
is left to the loss. Both pad by half a kernel, and their pools keep the remainder of a length that does not
divide, where the papers' drop it: so clips of a fraction of a second are not pooled away.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

_CFG = {
    "url": "",
    "num_classes": 10,
    "mean": (0.0,),
    "std": (1.0,),
    "first_conv": "features.conv1",
    "classifier": "classifier",
}
default_cfgs: dict[str, dict[str, Any]] = {
    "soundnet8": {**_CFG, "input_size": (1, 80000)},  # 5 s at 16 kHz
    "m5": {**_CFG, "input_size": (1, 8000)},  # 1 s at 8 kHz
}


class Stage(NamedTuple):
    """A convolution with batch norm and ReLU, then max-pooling unless ``pool`` is 1."""

    channels: int
    kernel: int
    stride: int
    pool: int


SOUNDNET8 = (
    Stage(16, 64, 2, 8),
    Stage(32, 32, 2, 8),
    Stage(64, 16, 2, 1),
    Stage(128, 8, 2, 1),
    Stage(256, 4, 2, 4),
    Stage(512, 4, 2, 1),
    Stage(1024, 4, 2, 1),
)
M5 = (Stage(128, 80, 4, 4), Stage(128, 3, 1, 4), Stage(256, 3, 1, 4), Stage(512, 3, 1, 4))


class AudioNet(nn.Module):
    """Stages, an average over time and a linear classifier: ``(B, in_chans, length) -> (B, num_classes)``.

    ``width`` multiplies the channels of every stage. A clip is at least as long as the first kernel.
    """

    def __init__(
        self,
        *,
        stages: Sequence[Stage],
        width: float = 1.0,
        num_classes: int = 10,
        in_chans: int = 1,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if width <= 0:
            raise ValueError(f"width is {width}; it multiplies the channels and must be above 0")
        self.shortest = stages[0].kernel
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        before = in_chans
        for i, stage in enumerate(stages, start=1):
            out = max(1, round(width * stage.channels))
            conv = nn.Conv1d(before, out, stage.kernel, stride=stage.stride, padding=stage.kernel // 2, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            layers |= {f"conv{i}": conv, f"bn{i}": nn.BatchNorm1d(out), f"act{i}": nn.ReLU(inplace=True)}
            if stage.pool > 1:
                layers[f"pool{i}"] = nn.MaxPool1d(stage.pool, ceil_mode=True)
            before = out
        self.features = nn.Sequential(layers)
        self.num_features = self.head_hidden_size = before
        self.drop_rate = drop_rate
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the classifier by a fresh one, in place; 0 classes leave none."""
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's map: ``(B, num_features, frames)``."""
        if x.ndim != 3:
            raise ValueError(f"sound is (batch, channels, length), this is {tuple(x.shape)}")
        if x.shape[2] < self.shortest:
            raise ValueError(f"a clip of {x.shape[2]} samples is too short, {self.shortest} or more are needed")
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits from a map, or the averaged features before the classifier."""
        x = F.dropout(x.mean(2), self.drop_rate, self.training)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@register_model
def soundnet8(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Kernels of 64 down to 4 samples, 16 to 1024 channels, 2.9M parameters."""
    return _build("soundnet8", pretrained, **{"stages": SOUNDNET8, **kwargs})


@register_model
def m5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """One kernel of 80 samples, then three of 3, 128 to 512 channels, 0.56M parameters."""
    return _build("m5", pretrained, **{"stages": M5, **kwargs})


def _build(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    # While it builds, timm insists on three numbers in input_size.
    size = default_cfgs[name]["input_size"]
    overlay = {**(kwargs.pop("pretrained_cfg_overlay", None) or {}), "input_size": (size[0], 1, size[1])}
    network = build_model_with_cfg(AudioNet, name, pretrained, pretrained_cfg_overlay=overlay, **kwargs)
    vars(network)["pretrained_cfg"]["input_size"] = size
    return network
