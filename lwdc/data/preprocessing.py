"""Preprocessing: from a decoded image or sound to what the network takes, as a deployer must repeat it."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from lwdc.errors import DataError


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """In this order: resize, crop, to float, times ``scale``, minus ``mean``, divided by ``std``.

    With a ``sample_rate`` it is one of sound, which is resampled and fitted instead of resized and cropped.
    """

    input_size: tuple[int, ...]  # (channels, height, width) of one image, (channels, samples) of one clip
    channel_order: str  # "RGB", "L" for grey, "mono" for sound
    scale: float  # brings stored values to [0, 1], or sound to [-1, 1]: 1/255 for 8-bit images, 1/16 for digits
    mean: tuple[float, ...]  # one a channel, of scaled values
    std: tuple[float, ...]
    resize: int | None = None  # pixels of the shorter side, aspect kept; None: images have the right size
    crop: tuple[int, int] | None = None  # (height, width), from the centre
    interpolation: str = "bilinear"  # of the resize
    sample_rate: int | None = None  # samples a second
    fit: str | None = None  # "centre": zeros at both ends of a shorter clip, the middle of a longer one

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.input_size[0]:
                raise DataError(
                    f"{name} has {len(values)} value(s) for {self.input_size[0]} channel(s); give one each."
                )
        if min(self.std) <= 0:
            raise DataError(f"std is {self.std}; every value must be above 0.")

    def to_dict(self) -> dict[str, Any]:
        """The fields that mean something for this kind of input."""
        idle = ("sample_rate", "fit") if self.sample_rate is None else ("resize", "crop", "interpolation")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in idle}

    def normalise(self, inputs: Tensor) -> Tensor:
        """Float32 inputs ready for the network, from stored values ``(B, *input_size)``."""
        axes = (-1, *(1,) * (len(self.input_size) - 1))
        mean, std = (torch.tensor(v, device=inputs.device).view(axes) for v in (self.mean, self.std))
        # In place on the fresh copy: this is most of the time that loading takes.
        return inputs.to(torch.float32, copy=True).mul_(self.scale).sub_(mean).div_(std)
