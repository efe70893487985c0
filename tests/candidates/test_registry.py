"""The registry: candidates are plain data."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from torch import nn

from lwdc.candidates import DoesNotFit, build, candidate_names, check, grouped, label, origin, register_candidate
from lwdc.errors import SpaceError
from lwdc.sites import Site


def test_the_operators_of_this_issue_are_registered() -> None:
    wanted = "original grouped separable separable_norm pointwise dilated kernel low_rank skip avg_pool max_pool zero"
    assert set(wanted.split()) <= set(candidate_names())


def test_an_unknown_operator_suggests_the_nearest() -> None:
    with pytest.raises(SpaceError, match=r"unknown operator 'groped'\. Did you mean 'grouped'\? Known: avg_pool, "):
        check({"op": "groped", "groups": 2})


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ({"op": "grouped"}, "missing a required (keyword-only )?argument: 'groups'; it takes groups"),
        ({"op": "grouped", "group": 2}, r"operator 'grouped' cannot be built from {'group': 2}: .*; it takes groups"),
        ({"op": "skip", "size": 2}, "it takes no options"),
        ({"groups": 2}, "a candidate is written {op: name, option: value}, found {'groups': 2}"),
        ("grouped", "a candidate is written {op: name, option: value}, found 'grouped'"),
    ],
)
def test_a_malformed_candidate_is_refused_with_what_is_accepted(candidate: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        check(candidate)


def test_an_option_of_the_wrong_kind_is_refused(place: Any) -> None:
    with pytest.raises(SpaceError, match=r"operator 'low_rank' cannot be built from {'ratio': 'half'}"):
        build({"op": "low_rank", "ratio": "half"}, place(nn.Conv2d(8, 8, 3), 6, 6).site)


def test_a_taken_name_is_refused_and_a_reloaded_module_is_not() -> None:
    with pytest.raises(SpaceError, match=r"operator 'grouped' is already registered by lwdc.candidates.grouped"):
        register_candidate("grouped")(lambda site: None)  # type: ignore[arg-type,return-value]
    importlib.reload(grouped)


def test_candidates_that_differ_have_different_labels() -> None:
    assert label({"op": "ghost", "ratio": 3}) == "ghost_3"
    assert label({"op": "ghost", "size": 3}) == "ghost_size=3"
    assert label({"op": "ghost", "size": 1, "ratio": 3}) == label({"op": "ghost", "ratio": 3, "size": 1}) == "ghost_3_1"
    assert label({"op": "dilated", "dilation": 3}) == "dilated_dilation=3"
    assert label({"op": "epitome", "out": 2}) != label({"op": "epitome", "into": 2})


def test_labels_are_the_name_and_the_option_values() -> None:
    assert label({"op": "grouped", "groups": 4}) == "grouped_4"
    assert label({"op": "dilated", "size": 3, "dilation": 2}) == "dilated_3_2"
    assert label({"op": "skip"}) == "skip"
    assert label({"op": "sum", "of": [{"op": "grouped", "groups": 4}, {"op": "skip"}]}) == "sum(grouped_4+skip)"


def test_an_operator_knows_the_module_that_registers_it() -> None:
    assert origin("separable") == "lwdc.candidates.separable"


def test_the_space_of_everything_lists_every_operator() -> None:
    listed = OmegaConf.load(Path(__file__).parents[2] / "conf/space/everything.yaml").candidates
    own = {name for name in candidate_names() if origin(name).startswith("lwdc.")}
    assert {candidate.op for candidate in listed} == own


@pytest.mark.parametrize(
    "candidate",
    [
        {"op": "shuffled", "groups": 2},
        {"op": "tucker", "ratio": 0.5},
        {"op": "squeezed", "ratio": 0.5},
        {"op": "separable_norm"},
        {"op": "ghost"},
        {"op": "shift"},
        {"op": "partial"},
    ],
    ids=label,
)
def test_operators_that_need_space_are_refused_at_a_layer_without(candidate: Any) -> None:
    linear = Site("fc", 0, 8, 8, (), (), (), (), 1, True, calls=(((8,), (8,)),))
    with pytest.raises(DoesNotFit, match="a Linear layer has no taps"):
        build(candidate, linear)
