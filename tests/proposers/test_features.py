"""Features: sequences over the decisions, by hand where they can be."""

import math
from collections.abc import Callable

import torch

from lwdc.proposers import Menu
from lwdc.proposers.features import encoded, is_candidate, static_features


def test_features_lie_between_0_and_1_and_tell_costs(menu: Callable[..., Menu]) -> None:
    space = menu(sites=3, budget=None)
    features = static_features(space)
    assert features.shape == (3, 5, 8)
    assert features.min() > 0
    assert features.flatten(0, 1).amax(0).tolist() == [1.0] * 8
    original, grouped = 8 * 8 * 9 * 16, 8 * 8 * 9 * 16 // 2
    ratio = float(features[0, 1, 1] / features[0, 0, 1])
    assert math.isclose(ratio, math.log1p(grouped) / math.log1p(original), rel_tol=1e-6)
    assert is_candidate(space).all()


def test_an_architecture_is_a_sequence_of_its_choices_and_their_features(menu: Callable[..., Menu]) -> None:
    space = menu(sites=3, budget=None)
    sequence = encoded(space, [(0, 2, 4), (1, 1, 1)])
    assert sequence.shape == (2, 5 + 8, 3)
    assert sequence[0, :5].argmax(0).tolist() == [0, 2, 4]
    assert torch.equal(sequence[0, 5:, 1], static_features(space)[1, 2])
