"""Inspection: sites, candidates and costs, without training."""

import dataclasses
import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from lwdc.costs import Macs, Memory, Params
from lwdc.data import Digits
from lwdc.errors import BackboneError
from lwdc.pipeline import BackboneSettings, CostSettings, Settings
from lwdc.pipeline.inspection import print_plan
from lwdc.space import SearchSpace

MakeSettings = Callable[..., Settings]


def printed(settings: Settings, given: tuple[tuple[int, ...], int] | None = None) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_plan(settings, console, given)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_sites_are_listed_with_shapes_and_the_share_each_candidate_costs(settings: MakeSettings) -> None:
    text = printed(settings())
    line = next(line for line in text.splitlines() if line.startswith("layer3.0.conv1"))
    # 8 -> 8 channels: a quarter for 4 groups, (72 + 64) / 576 separable, 1/9 pointwise
    assert line.split("  ", 1)[1].split() == (
        "8x4x4 8x2x2 original 1.00, grouped_4 0.25, separable 0.24, pointwise 0.11".split()
    )
    assert "cifar_resnet8 on inputs of (1, 8, 8): 39,248 MAC" in text
    assert "6 sites hold 93.9% of the macs" in text


def test_every_cost_is_shown_with_what_its_budget_comes_to(settings: MakeSettings) -> None:
    also = (CostSettings(Params(), budget="50%"), CostSettings(Memory(), factor=0.1))
    text = printed(settings(cost=CostSettings(Macs(), budget=0.01, also=also)))
    text = " ".join(text.split())
    assert re.findall(r"of the (\w+); reachable: ", text) == ["macs", "params", "memory"]
    assert "budget '0.01' (392 MAC) cannot be reached" in text
    assert "; budget 50%: 1,259 params. " in text


def test_the_reachable_range_is_that_of_the_table(settings: MakeSettings) -> None:
    text = printed(settings(space=SearchSpace([{"op": "original"}, {"op": "pointwise"}])))
    sites = 39248 - 9 * 4 * 64 - 80  # all but the stem and the classifier
    smallest = 39248 - sites + sites // 9
    assert f"reachable: {smallest:,} ({smallest / 39248:.3f}) to 39,248 (1.000)" in text


def test_candidates_that_cost_more_are_marked(settings: MakeSettings) -> None:
    wide = SearchSpace([{"op": "original"}, {"op": "kernel", "size": 5}], costlier=True)
    text = printed(settings(space=wide))
    assert "kernel_5 2.78*" in text and "original 1.00*" not in text
    assert "* costs more than the original" in text


def test_what_is_dropped_or_left_alone_is_said_with_the_reason(settings: MakeSettings) -> None:
    space = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 8}, {"op": "pointwise"}])
    text = printed(settings(space=space))
    assert "dropped  layer1.0.conv1, layer1.0.conv2: grouped_8: groups=8 does not divide 4 -> 4 channels" in text
    assert "left alone  conv1: the stem" in text


def test_costs_may_be_parameters(settings: MakeSettings) -> None:
    text = printed(settings(cost=CostSettings(Params(), budget=0.5)))
    assert "2,516 params" in text or "params\n" in text
    assert "of the params; reachable" in text


def test_of_a_peak_the_dearest_site_is_named(settings: MakeSettings) -> None:
    text = printed(settings(cost=CostSettings(Memory(), budget=0.9)))
    (share,) = re.findall(r"sites hold ([\d.]+)% of the memory", text)
    other = printed(settings(cost=CostSettings(Macs(), budget=0.9)))
    (sites,) = re.findall(r"(\d+) sites hold", other)
    assert int(sites) > 1 and 50 < float(share) <= 100  # the sum over sites would be more than the peak


def test_an_image_size_stands_in_for_the_data(settings: MakeSettings) -> None:
    class Absent(Digits):
        def read(self) -> tuple[object, object]:  # type: ignore[override]
            raise AssertionError("the data were read")

    given = settings(data=Absent(), backbone=BackboneSettings("mobilenetv2_100"), space=SearchSpace())
    text = printed(given, ((3, 32, 32), 100))
    assert "mobilenetv2_100 on inputs of (3, 32, 32)" in text
    with pytest.raises(AssertionError, match="the data were read"):
        printed(given)


def test_a_network_that_does_not_take_the_images_is_refused(settings: MakeSettings) -> None:
    given = dataclasses.replace(settings(), backbone=BackboneSettings("cifar_vgg16_bn"))
    with pytest.raises(BackboneError, match="cannot take inputs"):
        printed(given, ((3, 8, 8), 10))
