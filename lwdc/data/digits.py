"""Digits: scikit-learn's 1,797 handwritten digits of 8x8 grey pixels, which need no download."""

import functools
from collections.abc import Sequence

import torch

from lwdc.data.augmentation import CropAndFlip
from lwdc.data.in_memory import InMemory, Labelled
from lwdc.data.preprocessing import Preprocessing
from lwdc.data.splits import split_off

TEST_IMAGES = 360  # 20%; with as many for validation, 60% are left for training


class Digits(InMemory):
    """Test images are the same for every ``split_seed``, which only draws the validation images."""

    name = "digits"
    class_names = tuple("0123456789")

    def __init__(
        self,
        *,
        crop_padding: int = 0,
        flip: bool = False,
        valid: int = 360,
        limit_train: int | None = None,
        split_seed: int = 0,
        mean: Sequence[float] = (0.3053,),
        std: Sequence[float] = (0.3760,),
    ) -> None:
        super().__init__(
            Preprocessing((1, 8, 8), channel_order="L", scale=1 / 16, mean=tuple(mean), std=tuple(std)),
            augmentation=CropAndFlip(crop_padding, flip),
            valid=valid,
            limit_train=limit_train,
            split_seed=split_seed,
        )

    def read(self) -> tuple[Labelled, Labelled]:
        full = _all()
        test, rest = split_off(full.labels, TEST_IMAGES, seed=0)
        return full[rest], full[test]


@functools.cache  # a tenth of a second of parsing text
def _all() -> Labelled:
    from sklearn.datasets import load_digits  # here: it takes a second to import

    digits = load_digits()
    images = torch.from_numpy(digits.images).to(torch.uint8)[:, None]  # values 0 to 16
    return Labelled(images, torch.from_numpy(digits.target).long())
