"""Scores: by hand."""

import math

from lwdc.proposers import compression, kept


def test_compression_is_that_of_esnacs_published_rows() -> None:
    # VGG-19 on CIFAR-100: 71.64% of 73.71%, 0.847 of the parameters saved, f = 0.9492.
    assert math.isclose(compression(71.64 / 73.71, 1 - 0.847), 0.9492, abs_tol=1e-4)
    assert compression(1.0, 1.0) == 0


def test_within_a_budget_accuracy_alone_counts() -> None:
    assert kept(0.8, 0.1) == kept(0.8, 0.5) == 0.8
