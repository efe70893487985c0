"""Preprocessing is what a deployer must repeat."""

import numpy as np
import pytest
import torch

from lwdc.data import Preprocessing
from lwdc.errors import DataError

GREY = Preprocessing((1, 8, 8), "L", scale=1 / 16, mean=(0.25,), std=(0.5,))


def test_normalising_scales_then_standardises() -> None:
    images = torch.tensor([[[[0, 4], [8, 16]]]], dtype=torch.uint8)
    assert torch.equal(GREY.normalise(images), torch.tensor([[[[-0.5, 0.0], [0.5, 1.5]]]]))
    assert images.max() == 16


def test_a_deployer_gets_the_same_with_numpy() -> None:
    p = Preprocessing((3, 4, 4), "RGB", 1 / 255, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, std = (np.array(v, dtype=np.float32).reshape(3, 1, 1) for v in (p.mean, p.std))
    by_hand = (images.numpy().astype(np.float32) * np.float32(p.scale) - mean) / std
    np.testing.assert_allclose(p.normalise(images).numpy(), by_hand, rtol=0, atol=1e-6)


def test_one_mean_and_deviation_a_channel() -> None:
    with pytest.raises(DataError, match=r"mean has 1 value\(s\) for 3 channel"):
        Preprocessing((3, 8, 8), "RGB", 1 / 255, mean=(0.5,), std=(0.5, 0.5, 0.5))


def test_a_deviation_of_zero_is_refused() -> None:
    with pytest.raises(DataError, match=r"std is \(0.0,\); every value must be above 0"):
        Preprocessing((1, 8, 8), "L", 1 / 16, mean=(0.5,), std=(0.0,))


def test_sound_is_scaled_by_channel_and_described_without_pixels() -> None:
    sound = Preprocessing((2, 3), "mono", 1 / 4, mean=(0.5, 0.0), std=(0.5, 2.0), sample_rate=8000, fit="centre")
    clips = torch.tensor([[[2, 4, 0], [-8, 0, 8]]], dtype=torch.int16)
    assert torch.equal(sound.normalise(clips), torch.tensor([[[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]]]))
    assert sound.to_dict().keys() == {
        "input_size", "channel_order", "scale", "mean", "std", "sample_rate", "fit"
    }  # fmt: skip
    assert not {"sample_rate", "fit"} & GREY.to_dict().keys()
