"""The registry: candidates are plain data."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from lwdc.candidates import (
    DoesNotFit,
    Operator,
    build,
    candidate_names,
    check,
    grouped,
    label,
    origin,
    register_candidate,
    registry,
)
from lwdc.errors import SpaceError
from lwdc.geometry import own_support
from lwdc.sites import Site
from lwdc.space import SearchSpace
from lwdc.surgery import wrap


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


class Copied(Operator):
    """The layer itself once more, as someone who extends lwdc might write it."""

    def __init__(self, site: Site) -> None:
        super().__init__(site, own_support(site))
        self.conv = nn.Conv2d(site.in_channels, site.out_channels, 3, site.stride, 1, bias=site.bias)

    def compact_kernel(self) -> Tensor:
        return self.conv.weight

    def inherit(self, weight: Tensor) -> Any:
        with torch.no_grad():
            self.conv.weight.copy_(weight)
        return self._error(weight)

    def reset(self, norm: float) -> None: ...

    def release(self, bias: Tensor | None) -> nn.Module:
        return self.conv


class Read(Copied):
    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.scale = torch.ones(3).sum().item()


class Bare(Copied):
    def __init__(self, site: Site) -> None:
        nn.Module.__init__(self)


class Branch(Copied):
    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.support = None


class Kernelless(Copied):
    compact_kernel = Operator.compact_kernel


class Kept(Copied):
    def release(self, bias: Tensor | None) -> Any: ...


class Untold(Copied):
    def inherit(self, weight: Tensor) -> Any: ...


class Unknown(Copied):
    def inherit(self, weight: Tensor) -> Any:
        return float("nan")


class Broken(Copied):
    def release(self, bias: Tensor | None) -> nn.Module:
        return nn.Conv2d(5, self.site.out_channels, 1)


class Shrunk(Copied):
    """Its one pixel would be broadcast over the map."""

    def release(self, bias: Tensor | None) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(self.site.in_channels, self.site.out_channels, 1))


def square(site: Site) -> Operator:
    raise ValueError("not square")


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``own(builder)``: wraps a network with an operator that ``builder`` builds as the other candidate."""
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))

    def wrapped(builder: Any) -> nn.Module:
        register_candidate("own")(builder)
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1))
        return wrap(model, SearchSpace([{"op": "original"}, {"op": "own"}]), input_size=(3, 6, 6))

    return wrapped


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (lambda site: None, "is built by a function that returns an Operator, found None"),
        (lambda site: nn.Conv2d(4, 4, 1), r"that returns an Operator, found Conv2d\("),
        (square, "cannot be built from {} at '1' .*: ValueError: not square. .* raises DoesNotFit"),
        (Read, r"Tensor.item\(\) .* \(sizes are counted on the meta device, where tensors have no values"),
        (Bare, "Bare does not call Operator.__init__"),
        (Branch, r"Branch is not linear \(its support is None\) and needs a forward"),
        (Kernelless, r"Kernelless is linear \(it has a support\) and needs a compact_kernel"),
        (Kept, "release returns a module, found None"),
        (Broken, "cannot run as released at '1' .*: RuntimeError: "),
        (Shrunk, r"makes of \(4, 6, 6\) an output of \(4, 1, 1\), where the layer gives \(4, 3, 3\)"),
        (Untold, "inherit returns the relative error .* as a float, .*, found None"),
        (Unknown, "inherit returns the relative error .* as a float, .*, found nan"),
    ],
)
def test_an_operator_that_cannot_stand_in_is_refused_by_name(builder: Any, message: str, own: Any) -> None:
    with pytest.raises(SpaceError, match=f"operator 'own'.*{message}"):
        own(builder)


def test_an_operator_of_ones_own_stands_beside_the_layer(own: Any) -> None:
    assert own(Copied)(torch.zeros(2, 3, 6, 6)).shape == (2, 4, 3, 3)


def test_an_operator_is_not_registered_without_a_name() -> None:
    with pytest.raises(SpaceError, match=r"registered by name, @register_candidate\('name'\), found .*Copied"):
        register_candidate(Copied)  # type: ignore[arg-type]
