"""Splits keep every class's share, and stay what they are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lwdc.data.splits import hold_out, keep_at_most, split_off
from lwdc.errors import DataError

LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=60).map(torch.tensor)


@given(LABELS, st.data(), st.integers(0, 3))
def test_the_two_parts_make_up_the_whole(labels: Tensor, data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(0, len(labels)))
    chosen, rest = split_off(labels, count, seed=seed)
    assert len(chosen) == count
    assert torch.equal(torch.cat([chosen, rest]).sort().values, torch.arange(len(labels)))
    assert torch.equal(chosen, chosen.sort().values) and torch.equal(rest, rest.sort().values)


@given(LABELS, st.data(), st.integers(0, 3))
def test_every_class_gives_its_share(labels: Tensor, data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(0, len(labels)))
    chosen, _ = split_off(labels, count, seed=seed)
    for label in labels.unique():
        share = count * float((labels == label).float().mean())
        assert abs(int((labels[chosen] == label).sum()) - share) < 2


@given(LABELS, st.data(), st.integers(0, 3))
def test_a_smaller_choice_is_part_of_a_larger_one(labels: Tensor, data: st.DataObject, seed: int) -> None:
    larger = data.draw(st.integers(0, len(labels)))
    smaller = data.draw(st.integers(0, larger))
    few, many = (set(split_off(labels, count, seed=seed)[0].tolist()) for count in (smaller, larger))
    assert few <= many


def test_balanced_classes_are_split_evenly() -> None:
    labels = torch.arange(10).repeat(100)
    train, valid = hold_out(labels, 200, seed=0)
    assert labels[valid].bincount().tolist() == [20] * 10
    assert labels[train].bincount().tolist() == [80] * 10


def test_the_seed_draws_the_choice() -> None:
    labels = torch.arange(10).repeat(10)
    choices = [tuple(split_off(labels, 20, seed=seed)[0].tolist()) for seed in (0, 0, 1)]
    assert choices[0] == choices[1] != choices[2]


def test_splits_stay_the_same_over_versions() -> None:
    assert split_off(torch.arange(4).repeat(4), 4, seed=0)[0].tolist() == [1, 6, 7, 8]


@pytest.mark.parametrize("count", [0, 10, 11, -1])
def test_both_parts_need_images(count: int) -> None:
    with pytest.raises(DataError, match=f"{count} of 10 training examples .* ask for 1 to 9"):
        hold_out(torch.zeros(10, dtype=torch.long), count, seed=0)


def test_a_limit_above_the_number_of_images_keeps_all() -> None:
    labels = torch.arange(3).repeat(4)
    for limit in (None, 12, 100):
        assert torch.equal(keep_at_most(labels, limit, seed=0), torch.arange(12))


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="limit_train is 0"):
        keep_at_most(torch.zeros(10, dtype=torch.long), 0, seed=0)


@given(st.lists(st.integers(0, 12), min_size=30, max_size=60).map(torch.tensor), st.integers(5, 25), st.integers(0, 3))
def test_groups_stay_together_and_no_class_gives_more_than_its_share(groups: Tensor, count: int, seed: int) -> None:
    labels = groups % 3
    shares = labels[hold_out(labels, count, seed=seed)[1]].bincount(minlength=3)
    try:
        train, valid = hold_out(labels, count, seed=seed, groups=groups)
    except DataError:  # none fits
        assert all(int((groups == group).sum()) > shares[group % 3] for group in groups.unique())
        return
    assert torch.equal(torch.cat([train, valid]).sort().values, torch.arange(len(labels)))
    assert not set(groups[train].tolist()) & set(groups[valid].tolist())
    assert (labels[valid].bincount(minlength=3) <= shares).all()


def test_groups_of_one_are_held_out_as_examples_are() -> None:
    labels = torch.arange(10).repeat(10)
    train, valid = hold_out(labels, 20, seed=0, groups=torch.arange(100))
    assert labels[valid].bincount().tolist() == [2] * 10 and len(train) == 80
    assert not torch.equal(valid, hold_out(labels, 20, seed=1, groups=torch.arange(100))[1])


def test_groups_that_are_all_too_large_are_refused() -> None:
    with pytest.raises(DataError, match="2 examples for validation are too few"):
        hold_out(torch.arange(2).repeat(10), 2, seed=0, groups=torch.arange(4).repeat(5))
