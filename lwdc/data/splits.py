"""Choosing images from a labelled set so that every class keeps its share."""

import numpy as np
import torch
from torch import Tensor

from lwdc.errors import DataError


def split_off(labels: Tensor, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of ``count`` images, and those of the rest, each ascending.

    Every class gives its share, to within one image. For one seed a smaller choice is part of a larger one.
    """
    # RandomState is frozen for good, so a split outlives the versions of numpy and torch.
    shuffled = np.random.RandomState(seed).permutation(len(labels))
    place = np.empty(len(labels))
    values = labels.numpy()[shuffled]
    for value in np.unique(values):
        members = shuffled[values == value]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = shuffled[np.argsort(place[shuffled], kind="stable")]
    chosen, rest = np.sort(order[:count]), np.sort(order[count:])
    return torch.from_numpy(chosen), torch.from_numpy(rest)


def hold_out(labels: Tensor, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training images and of the ``count`` ones held out for validation."""
    if not 0 < count < len(labels):
        raise DataError(
            f"{count} of {len(labels)} training images were asked for validation; "
            f"both parts need images: ask for 1 to {len(labels) - 1}."
        )
    valid, train = split_off(labels, count, seed=seed)
    return train, valid


def keep_at_most(labels: Tensor, limit: int | None, *, seed: int) -> Tensor:
    """Indices of ``limit`` images, or of all of them if there are fewer or no limit."""
    if limit is not None and limit < 1:
        raise DataError(f"limit_train is {limit}; leave it out, or keep at least 1 image.")
    return split_off(labels, len(labels) if limit is None else limit, seed=seed)[0]
