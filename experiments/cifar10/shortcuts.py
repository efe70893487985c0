"""Option-A shortcuts in a form whose channels can be removed on either side, one by one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwdc.backbones.cifar_resnet import PadShortcut

_ZERO = -1  # a source: no input channel, zeros


class Select(nn.Module):
    """Every ``stride``-th pixel; output channel ``i`` is input channel ``source[i]``, or zeros where that is -1."""

    source: Tensor

    def __init__(self, source: Tensor, in_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.stride = in_channels, stride
        self.register_buffer("source", source.long())

    @property
    def out_channels(self) -> int:
        return len(self.source)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, 1))  # one channel of zeros, behind
        return x.index_select(1, torch.where(self.source == _ZERO, x.shape[1] - 1, self.source))

    def drop_outputs(self, channels: list[int]) -> None:
        """Remove output channels, in place."""
        kept = torch.ones(self.out_channels, dtype=torch.bool, device=self.source.device)
        kept[channels] = False
        self.source = self.source[kept]

    def drop_inputs(self, channels: list[int]) -> None:
        """Remove input channels, in place: outputs that came from them are zeros, the others keep their channel."""
        kept = torch.ones(self.in_channels, dtype=torch.bool, device=self.source.device)
        kept[channels] = False
        renumbered = torch.where(kept, kept.cumsum(0) - 1, _ZERO)
        self.source = torch.where(self.source == _ZERO, _ZERO, renumbered[self.source])
        self.in_channels = int(kept.sum())


def selecting(shortcut: PadShortcut, in_channels: int) -> Select:
    """The same function as ``shortcut``."""
    behind, before = [_ZERO] * shortcut.behind, [_ZERO] * shortcut.before
    return Select(torch.tensor([*before, *range(in_channels), *behind]), in_channels, shortcut.stride)


def with_selecting_shortcuts(network: nn.Module) -> nn.Module:
    """Replace every option-A shortcut, in place; what the network computes does not change."""
    for block in list(network.modules()):
        shortcut = getattr(block, "downsample", None)
        if isinstance(shortcut, PadShortcut):
            block.downsample = selecting(shortcut, block.conv1.in_channels)  # type: ignore[union-attr]
    return network
