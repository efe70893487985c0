"""Operators at a place, built as a search would build them."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from lwdc.candidates import DoesNotFit, Operator, build, candidate_names
from lwdc.candidates.original import Original

# Options for every operator that cannot be built without, and further ones for those that can.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "avg_pool": [{}, {"size": 2}, {"size": 5}],
    "dilated": [{}, {"size": 2, "dilation": 3}],
    "epitome": [
        {"ratio": 3},
        {"into": 2, "wrap": True, "window": 1.0},
        {"into": 2, "out": 2, "window": 1.0, "sampling": "fixed"},
        {"ratio": 3, "indexing": "per_block"},
        {"out": 4, "into": 2, "taps": 1.5, "sampling": "fixed"},
    ],
    "factorised": [{}, {"ratio": 0.2}],
    "ghost": [{}, {"ratio": 3, "size": 1}],
    "grouped": [{"groups": 2}, {"groups": 4}, {"groups": "most"}],
    "kernel": [{"size": 1}, {"size": 2}, {"size": 3}, {"size": 6}],
    "low_rank": [{"ratio": 0.25}, {"ratio": 0.6}],
    "max_pool": [{}, {"size": 2}],
    "partial": [{}, {"ratio": 2}],
    "separable": [{}, {"size": 2}, {"size": 5}],
    "separable_norm": [{}, {"size": 2}, {"repeats": 2}],
    "shuffled": [{"groups": 2}, {"groups": 4, "size": 1}],
    "squeezed": [{"ratio": 0.25}],
    "sum": [
        {"of": [{"op": "separable"}, {"op": "low_rank", "ratio": 0.25}]},
        {"of": [{"op": "grouped", "groups": 2}, {"op": "low_rank", "ratio": 0.25}, {"op": "skip"}]},
        {"of": [{"op": "grouped", "groups": 4}, {"op": "grouped", "groups": "most"}, {"op": "kernel", "size": 3}]},
        {"of": [{"op": "dilated"}, {"op": "epitome", "ratio": 3}]},
        {"of": [{"op": "pointwise"}, {"op": "separable_norm"}]},
        {"of": [{"op": "max_pool"}, {"op": "ghost"}]},
    ],
    "tucker": [{"ratio": 0.25}, {"ratio": 0.6}],
    "wsnet": [{"ratio": 2}, {"ratio": 5}, {"step": 1}, {"step": 2, "repeat": 2}],
}


@pytest.fixture(scope="session")
def candidates() -> list[dict[str, Any]]:
    """Every registered operator, several with more than one set of options."""
    return [{"op": name, **options} for name in candidate_names() for options in OPTIONS.get(name, [{}])]


@pytest.fixture(scope="session")
def operators_at(candidates: list[dict[str, Any]]) -> Callable[..., Iterator[Operator]]:
    """``operators_at(place)``: every candidate that fits there, inherited unless told; ``names`` asks for a few."""

    def make(place: Any, *names: str, inherit: bool = True) -> Iterator[Operator]:
        for candidate in candidates:
            if names and candidate["op"] not in names:
                continue
            try:
                operator = build(candidate, place.site).double()
            except DoesNotFit:
                continue
            if isinstance(operator, Original):
                operator.own(place.conv)
            if inherit:
                operator.inherit(place.weight)
            yield operator.train(True)

    return make


@pytest.fixture(scope="session")
def released() -> Callable[..., nn.Module]:
    """``released(operator, bias)``: what a copy of the operator leaves behind."""

    def release(operator: Operator, bias: torch.Tensor | None = None) -> nn.Module:
        return copy.deepcopy(operator).release(bias)

    return release


@pytest.fixture(scope="session")
def close() -> Callable[..., bool]:
    """Whether two float64 tensors agree to 1e-10 of the larger one's scale."""

    def agree(a: torch.Tensor, b: torch.Tensor) -> bool:
        a, b = a.detach(), b.detach()
        return a.shape == b.shape and float((a - b).abs().max()) <= 1e-10 * max(1.0, float(b.abs().max()))

    return agree
