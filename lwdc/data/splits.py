"""Choosing examples from a labelled set so that every class keeps its share."""

import numpy as np
import torch
from torch import Tensor

from lwdc.errors import DataError


def split_off(labels: Tensor, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of ``count`` examples, and those of the rest, each ascending.

    Every class gives its share, to within one example. For one seed a smaller choice is part of a larger one.
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


def hold_out(labels: Tensor, count: int, *, seed: int, groups: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Indices of the training examples and of the ``count`` ones held out for validation.

    With ``groups``, a number an example, those of one group stay together; a class then gives no more than
    its share, and less where its groups are too large.
    """
    if not 0 < count < len(labels):
        raise DataError(
            f"{count} of {len(labels)} training examples were asked for validation; "
            f"both parts need examples: ask for 1 to {len(labels) - 1}."
        )
    valid, train = split_off(labels, count, seed=seed)
    if groups is not None:
        valid = _whole_groups(labels, groups, labels[valid].bincount(minlength=int(labels.max()) + 1), seed)
        train = torch.from_numpy(np.setdiff1d(np.arange(len(labels)), valid.numpy()))
    return train, valid


def keep_at_most(labels: Tensor, limit: int | None, *, seed: int) -> Tensor:
    """Indices of ``limit`` examples, or of all of them if there are fewer or no limit."""
    if limit is not None and limit < 1:
        raise DataError(f"limit_train is {limit}; leave it out, or keep at least 1 example.")
    return split_off(labels, len(labels) if limit is None else limit, seed=seed)[0]


def _whole_groups(labels: Tensor, groups: Tensor, shares: Tensor, seed: int) -> Tensor:
    """Indices of groups, in random order, as long as they fit into what is left of their class's share."""
    left = shares.tolist()
    chosen = []
    for group in np.random.RandomState(seed).permutation(groups.unique().numpy()):
        members = (groups == group).nonzero().flatten()
        label = int(labels[members[0]])
        if len(members) <= left[label]:
            left[label] -= len(members)
            chosen.append(members)
    if not chosen:
        raise DataError(
            f"{int(shares.sum())} examples for validation are too few: no group of a class's examples fits into "
            "its share; ask for more."
        )
    return torch.cat(chosen).sort().values
