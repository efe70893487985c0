"""The embedded digits: what they hold and how they are split."""

import torch

from lwdc.data import Digits


def splits(**options: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    digits = Digits(**options)
    digits.prepare(torch.device("cpu"))
    return {split: next(digits.batches(split, 2000)) for split in ("train", "valid", "test")}


def test_sixty_twenty_twenty_with_every_class_in_its_share() -> None:
    found = splits()
    assert {name: len(labels) for name, (_, labels) in found.items()} == {
        "train": 1077,
        "valid": 360,
        "test": 360,
    }
    whole = torch.cat([labels for _, labels in found.values()]).bincount()
    assert whole.sum() == 1797
    for _, labels in found.values():
        assert (labels.bincount() - whole * len(labels) / 1797).abs().max() < 2


def test_the_test_images_stay_when_validation_is_drawn_anew() -> None:
    first, second = splits(split_seed=0), splits(split_seed=1)
    assert torch.equal(first["test"][0], second["test"][0])
    assert not torch.equal(first["valid"][0], second["valid"][0])


def test_images_are_normalised() -> None:
    images = torch.cat([images for images, _ in splits().values()])
    assert images.shape == (1797, 1, 8, 8)
    assert abs(float(images.mean())) < 1e-3 and abs(float(images.std()) - 1) < 1e-3
