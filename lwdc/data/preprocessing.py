"""Preprocessing: from a decoded image to what the network takes, as a deployer must repeat it."""

import dataclasses

import torch
from torch import Tensor

from lwdc.errors import DataError


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """In this order: resize, crop, to float, times ``scale``, minus ``mean``, divided by ``std``."""

    input_size: tuple[int, ...]  # (channels, height, width) of one image
    channel_order: str  # "RGB", or "L" for grey
    scale: float  # brings stored values to [0, 1]: 1/255 for 8-bit images
    mean: tuple[float, ...]  # one a channel, of scaled values
    std: tuple[float, ...]
    resize: int | None = None  # pixels of the shorter side, aspect kept; None: images have the right size
    crop: tuple[int, int] | None = None  # (height, width), from the centre
    interpolation: str = "bilinear"  # of the resize

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.input_size[0]:
                raise DataError(
                    f"{name} has {len(values)} value(s) for {self.input_size[0]} channel(s); give one each."
                )
        if min(self.std) <= 0:
            raise DataError(f"std is {self.std}; every value must be above 0.")

    def normalise(self, images: Tensor) -> Tensor:
        """Float32 images ready for the network, from stored values ``(B, C, H, W)`` of the right size."""
        mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        # In place on the fresh copy: this is most of the time that loading takes.
        return images.to(torch.float32, copy=True).mul_(self.scale).sub_(mean).div_(std)
