"""Batches formed on the device: right images, right labels, and a function of (seed, epoch, step)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lwdc.data import CropAndFlip, Digits, InMemory, Labelled, Preprocessing, Shard
from lwdc.errors import DataError

CPU = torch.device("cpu")


class Counted(InMemory):
    """40 + 8 images of 2 channels; image number ``i`` holds the value ``i`` and no other, label ``i % 4``."""

    name = "counted"
    class_names = ("a", "b", "c", "d")

    def __init__(
        self,
        *,
        train: Labelled | None = None,
        test: Labelled | None = None,
        crop_padding: int = 0,
        flip: bool = False,
        **options: Any,
    ) -> None:
        usual = {"augmentation": CropAndFlip(crop_padding, flip), "valid": 8, "limit_train": None, "split_seed": 0}
        super().__init__(Preprocessing((2, 4, 4), "LA", 1.0, (0.0, 0.0), (1.0, 1.0)), **usual | options)
        self.parts = train or counted(range(40)), test or counted(range(40, 48))

    def read(self) -> tuple[Labelled, Labelled]:
        return self.parts


def counted(values: range) -> Labelled:
    numbers = torch.tensor(values)
    images = numbers.to(torch.uint8)[:, None, None, None].expand(-1, 2, 4, 4).contiguous()
    return Labelled(images, numbers % 4)


def prepared(**options: Any) -> Counted:
    data = Counted(**options)
    data.prepare(CPU)
    return data


def values(batches: Any) -> list[int]:
    """The images' numbers in order of appearance; their labels must have come along."""
    numbers = []
    for images, labels in batches:
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert torch.equal(images.amax((1, 2, 3)).long() % 4, labels)
        numbers += images.amax((1, 2, 3)).int().tolist()
    return numbers


def test_the_three_splits_share_no_image() -> None:
    data = prepared()
    splits = [values(data.batches(split, 5)) for split in ("train", "valid", "test")]
    assert [len(split) for split in splits] == [32, 8, 8]
    assert sorted(number for split in splits for number in split) == list(range(48))
    assert splits[2] == list(range(40, 48))


def test_evaluation_keeps_the_last_small_batch_and_the_order() -> None:
    data = prepared()
    assert [len(labels) for _, labels in data.batches("valid", 5)] == [5, 3]
    assert values(data.batches("train", 5)) == values(data.batches("train", 32))


def test_an_epoch_shows_every_image_at_most_once_and_drops_the_rest() -> None:
    data = prepared()
    shown = values(data.train(seed=0, epoch=1, batch_size=5))
    assert data.steps(5) == 6 and len(shown) == len(set(shown)) == 30
    assert set(shown) <= set(values(data.batches("train", 5)))


@pytest.mark.parametrize("other", [{"seed": 1, "epoch": 1}, {"seed": 0, "epoch": 2}])
def test_seeds_and_epochs_are_shown_in_orders_of_their_own(other: dict[str, int]) -> None:
    data = prepared()
    first = values(data.train(seed=0, epoch=1, batch_size=4))
    assert first == values(data.train(seed=0, epoch=1, batch_size=4))
    assert first != values(data.train(**other, batch_size=4))


@given(seed=st.integers(0, 9), epoch=st.integers(0, 9), start=st.integers(0, 15), size=st.integers(1, 200))
def test_starting_late_gives_the_rest_of_the_epoch_bit_for_bit(seed: int, epoch: int, start: int, size: int) -> None:
    data = DIGITS
    whole = list(data.train(seed=seed, epoch=epoch, batch_size=size))
    tail = list(data.train(seed=seed, epoch=epoch, batch_size=size, start=start))
    assert len(whole) == data.steps(size) and len(tail) == max(0, len(whole) - start)
    for (images, labels), (same_images, same_labels) in zip(whole[start:], tail, strict=True):
        assert torch.equal(images, same_images) and torch.equal(labels, same_labels)


DIGITS = Digits(crop_padding=1, flip=True, limit_train=300)
DIGITS.prepare(CPU)


def test_the_global_random_state_plays_no_part() -> None:
    state = torch.get_rng_state()
    first = [images for images, _ in DIGITS.train(seed=0, epoch=0, batch_size=50)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    again = [images for images, _ in DIGITS.train(seed=0, epoch=0, batch_size=50)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def shifts(batches: Any) -> Tensor:
    """How far black borders reach into each image: (images, 4), for top, bottom, left and right."""
    images = torch.cat([images for images, _ in batches])[:, 0] != 0
    rows, columns = images.any(2), images.any(1)
    return torch.stack([~rows[:, 0], ~rows[:, -1], ~columns[:, 0], ~columns[:, -1]], dim=1)


def test_training_images_are_shifted_to_every_side_and_others_not() -> None:
    data = prepared(crop_padding=1, train=counted(range(4, 44)))
    assert shifts(data.train(seed=0, epoch=0, batch_size=32)).any(0).all()
    assert not shifts(data.batches("train", 32)).any()


def test_half_of_the_training_images_are_mirrored() -> None:
    ramp = torch.arange(4, dtype=torch.uint8).expand(4000, 2, 4, 4).contiguous()
    data = prepared(flip=True, train=Labelled(ramp, torch.arange(4000) % 4))
    images = torch.cat([images for images, _ in data.train(seed=0, epoch=0, batch_size=100)])
    mirrored = images[:, 0, 0, 0] == 3
    assert 0.45 < float(mirrored.float().mean()) < 0.55
    assert torch.equal(images[mirrored].flip(-1), images[~mirrored][:1].expand(int(mirrored.sum()), -1, -1, -1))


def test_without_augmentation_images_are_only_shuffled() -> None:
    data = prepared()
    assert not shifts(data.train(seed=0, epoch=0, batch_size=32)).any(1).sum() > 1  # number 0 is black


def test_training_images_can_be_limited_by_class() -> None:
    data = prepared(limit_train=12)
    assert data.num_train() == 12
    (_, labels), *rest = data.batches("train", 32)
    assert labels.bincount().tolist() == [3] * 4 and not rest
    full = prepared()
    assert values(data.batches("valid", 5)) == values(full.batches("valid", 5))


def test_prepare_twice_reads_once() -> None:
    data = prepared()
    data.parts = ()  # type: ignore[assignment]
    data.prepare(CPU)
    assert data.num_train() == 32


def test_classes_and_size_are_known_before_anything_is_read() -> None:
    data = Counted()
    assert data.num_classes == 4 and data.input_size == (2, 4, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_sees_the_same_batches() -> None:
    digits = Digits(crop_padding=1, flip=True)
    digits.prepare(CPU)
    here = list(digits.train(seed=0, epoch=0, batch_size=64))
    digits.prepare(torch.device("cuda"))
    for (images, labels), (theirs, their_labels) in zip(
        here, digits.train(seed=0, epoch=0, batch_size=64), strict=True
    ):
        assert theirs.device.type == their_labels.device.type == "cuda"
        assert torch.equal(labels, their_labels.cpu())
        torch.testing.assert_close(images, theirs.cpu())


def refusal(**options: Any) -> str:
    with pytest.raises(DataError) as raised:
        prepared(**options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_labels_outside_the_classes_are_refused() -> None:
    data = counted(range(8))
    assert refusal(test=Labelled(data.inputs, torch.arange(8))).startswith(
        "the test set of counted has labels from 0 to 7, its classes are 0 to 3"
    )
    assert "labels from -1 to 6" in refusal(train=Labelled(data.inputs, torch.arange(8) - 1))


def test_images_of_another_size_or_channel_count_are_refused() -> None:
    labels = torch.arange(8) % 4
    for shape in ((2, 4, 5), (1, 4, 4), (3, 4, 4)):
        images = torch.zeros(8, *shape, dtype=torch.uint8)
        assert f"examples of {shape}, (2, 4, 4) were expected" in refusal(train=Labelled(images, labels))


def test_images_without_labels_are_refused() -> None:
    data = counted(range(8))
    assert "has 8 examples and 7 labels" in refusal(train=Labelled(data.inputs, data.labels[:7]))


def test_an_empty_set_is_refused() -> None:
    assert "the test set of counted holds no examples" in refusal(test=counted(range(0)))


@pytest.mark.parametrize(("size", "said"), [(33, "is 33, counted has 32 training examples"), (0, "at least 1")])
def test_impossible_batch_sizes_are_refused_at_once(size: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        prepared().train(seed=0, epoch=0, batch_size=size)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match=r"unknown split 'validation'\. Known: train, valid, test"):
        next(prepared().batches("validation", 4))


def test_data_that_was_not_prepared_says_so() -> None:
    with pytest.raises(DataError, match=r"counted has not been read yet; call prepare\(device\) first"):
        Counted().steps(4)


@pytest.mark.parametrize("count", [2, 3])
def test_shards_of_a_batch_are_together_the_batch(count: int) -> None:
    data = prepared()
    for start in (0, 1):
        whole = list(data.train(seed=1, epoch=2, batch_size=5, start=start))
        parts = [
            list(data.train(seed=1, epoch=2, batch_size=5, start=start, shard=Shard(i, count))) for i in range(count)
        ]
        for step, (inputs, labels) in enumerate(whole):
            for index in range(count):
                ours, answers = parts[index][step]
                assert torch.equal(ours, inputs[index::count]) and torch.equal(answers, labels[index::count])
    shown = sorted(value for i in range(count) for value in values(data.batches("valid", 7, Shard(i, count))))
    assert shown == sorted(values(data.batches("valid", 7)))


def _floats(scale: float) -> Counted:
    half = Labelled(counted(range(40)).inputs / 255, torch.arange(40) % 4)
    data = Counted(train=half)
    data.preprocessing = dataclasses.replace(data.preprocessing, scale=scale)
    return data


def _read_as(found: Any) -> Counted:
    data = Counted()
    data.parts = found
    return data


def _labelled(labels: Any) -> Counted:
    return Counted(train=Labelled(counted(range(40)).inputs, labels))


class Nameless(Counted):
    class_names = ()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: _labelled(torch.arange(40).float() % 4),
            r"labels that are torch\.float32 \(40,\); they are a tensor of",
        ),
        (lambda: _labelled(torch.arange(40).int() % 4), r"labels that are torch\.int32 \(40,\)"),
        (lambda: _labelled(torch.zeros(40, 4).long()), r"labels that are torch\.int64 \(40, 4\)"),
        (lambda: _labelled([0] * 40), "labels that are a list"),
        (lambda: Counted(train=Labelled([0] * 40, torch.arange(40) % 4)), "inputs that are a list"),  # type: ignore[arg-type]
        (lambda: _floats(1 / 255), r"inputs that are torch\.float32 .*give the integers as stored, or a scale of 1"),
        (lambda: _read_as(None), "Counted.read gave a NoneType; it gives two Labelled"),
        (lambda: _read_as((torch.zeros(2), torch.zeros(2))), r"Counted.read gave \(Tensor, Tensor\)"),
        (lambda: Nameless(), "Nameless says no name or no class_names"),
        (lambda: Counted(augmentation=None), r"augmentation of Counted is None: give one .* CropAndFlip\(0"),
    ],
)
def test_a_data_set_that_breaks_the_promise_is_told_how(make: Callable[[], Counted], said: str) -> None:
    with pytest.raises(DataError, match=said):
        make().prepare(CPU)
    _floats(1).prepare(CPU)
