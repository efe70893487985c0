"""Augmentations change examples as they say, and only as far."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lwdc.data import CropAndFlip, ShiftAndGain
from lwdc.data.augmentation import crop_and_flip, shift
from lwdc.errors import DataError


@given(
    padding=st.integers(0, 3),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    data=st.data(),
)
def test_crops_and_flips_are_those_of_padding_slicing_and_mirroring(
    padding: int, size: tuple[int, int], data: st.DataObject
) -> None:
    height, width = size
    images = torch.randint(0, 256, (3, 2, height, width), dtype=torch.uint8)
    corners = torch.tensor(data.draw(st.lists(st.tuples(*[st.integers(0, 2 * padding)] * 2), min_size=3, max_size=3)))
    flipped = torch.tensor(data.draw(st.lists(st.booleans(), min_size=3, max_size=3)))
    result = crop_and_flip(images, padding, corners, flipped)
    for i, (top, left) in enumerate(corners.tolist()):
        window = F.pad(images[i], (padding,) * 4)[:, top : top + height, left : left + width]
        assert torch.equal(result[i], window.flip(-1) if flipped[i] else window)


@given(padding=st.integers(0, 12), length=st.integers(1, 9), data=st.data())
def test_shifts_are_those_of_padding_and_slicing(padding: int, length: int, data: st.DataObject) -> None:
    clips = torch.randint(-9, 9, (3, 2, length), dtype=torch.int16)
    starts = torch.tensor(data.draw(st.lists(st.integers(0, 2 * padding), min_size=3, max_size=3)))
    result = shift(clips, padding, starts)
    for clip, moved, start in zip(clips, result, starts.tolist(), strict=True):
        assert torch.equal(moved, F.pad(clip, (padding, padding))[:, start : start + length])


def test_shifts_reach_both_sides_and_no_further() -> None:
    clips = torch.zeros(500, 1, 9, dtype=torch.int16)
    clips[:, :, 4] = 7
    change = ShiftAndGain(shift=2, gain_db=0)
    moved = change(clips, *change.draw(500, torch.Generator().manual_seed(0)))
    assert moved.dtype == torch.int16  # still as stored
    assert moved.sum((1, 2)).tolist() == [7] * 500
    assert moved.argmax(2).unique().tolist() == [2, 3, 4, 5, 6]


def test_gains_are_even_in_decibels_up_to_the_largest() -> None:
    clips = torch.full((4000, 1, 2), 1000, dtype=torch.int16)
    change = ShiftAndGain(shift=0, gain_db=6)
    decibels = 20 * (change(clips, *change.draw(4000, torch.Generator().manual_seed(0)))[:, 0, 0] / 1000).log10()
    assert 5.9 < float(decibels.max()) <= 6.001 and -6.001 <= float(decibels.min()) < -5.9
    assert abs(float(decibels.mean())) < 0.2 and 0.45 < float((decibels.abs() < 3).float().mean()) < 0.55


def test_loud_sound_is_not_clipped_by_a_gain() -> None:
    clips = torch.tensor([[[32767, -32768]]], dtype=torch.int16)
    assert ShiftAndGain(0, 6)(clips, torch.tensor([0]), torch.tensor([2.0])).tolist() == [[[65534.0, -65536.0]]]


@pytest.mark.parametrize("change", [CropAndFlip(0, flip=False), ShiftAndGain(0, 0.0)])
def test_nothing_asked_for_is_nothing_changed(change: CropAndFlip | ShiftAndGain) -> None:
    inputs = torch.randint(0, 256, (5, 1, 4, 4) if isinstance(change, CropAndFlip) else (5, 1, 8))
    assert torch.equal(change(inputs, *change.draw(5, torch.Generator())), inputs)


def test_negative_amounts_are_refused() -> None:
    with pytest.raises(DataError, match="crop_padding is -1"):
        CropAndFlip(-1, flip=False)
    with pytest.raises(DataError, match="shift is -1"):
        ShiftAndGain(-1, 0.0)
    with pytest.raises(DataError, match=r"gain_db is -0\.5"):
        ShiftAndGain(0, -0.5)
