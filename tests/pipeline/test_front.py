"""Runs with strategy=joint_front: what may be asked of them, and one search for many."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lwdc.architecture import Architecture
from lwdc.costs import Macs, Params
from lwdc.errors import CheckpointError, CostError, LwdcError
from lwdc.pipeline import CostSettings, FrontSettings, Settings, compress, prepare
from lwdc.space import SearchSpace

Make = Callable[..., Settings]
FRONT = FrontSettings(("80%", 0.4), 3)


def test_reading_off_an_earlier_search_gives_what_a_run_of_its_own_would(settings: Make, tmp_path: Path) -> None:
    compress(settings(front=FRONT), tmp_path / "half", {}, until="search")
    asked = CostSettings(Macs(), budget=0.7)
    compress(settings(front=FRONT, cost=asked), tmp_path / "alone", {}, until="search")
    reading = settings(front=FRONT, cost=asked, searched=tmp_path / "half")
    compress(reading, tmp_path / "read", {}, until="search")
    alone, read = tmp_path / "alone", tmp_path / "read"
    assert Architecture.load(alone / "architecture.json") == Architecture.load(read / "architecture.json")
    assert Architecture.load(read / "architecture.json") != Architecture.load(tmp_path / "half" / "architecture.json")
    weights = [load_file(folder / "discretised.safetensors") for folder in (alone, read)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (CostSettings(Macs(), factor=1.0), "is read off at a budget"),
        (CostSettings(Macs(), budget=0.5, also=(CostSettings(Params(), budget=0.5),)), "searches under one cost"),
    ],
)
def test_what_a_front_cannot_be_asked_is_refused(settings: Make, asked: CostSettings, message: str) -> None:
    with pytest.raises(LwdcError, match=message):
        settings(front=FRONT, cost=asked)


@pytest.mark.parametrize("budget", [0.39, 0.81])
def test_budgets_outside_of_the_range_are_refused(settings: Make, budget: float) -> None:
    with pytest.raises(CostError, match=r"the search covers budgets from .* \(80% to 0.4\).*: choose one between"):
        prepare(settings(front=FRONT, cost=CostSettings(Macs(), budget=budget)))


@pytest.mark.parametrize(("budgets", "knots"), [((0.5,), 3), ((0.5, 0.4), 1), ((0.5, 0.4), 2.5)])
def test_a_range_that_is_none_is_refused(budgets: tuple[float, ...], knots: int) -> None:
    with pytest.raises(LwdcError, match=r"strategy\.front\.(budgets|knots)"):
        FrontSettings(budgets, knots)  # type: ignore[arg-type]


def test_the_ends_of_a_range_must_differ(settings: Make) -> None:
    with pytest.raises(CostError, match="two ends of a range"):
        prepare(settings(front=FrontSettings((0.5, "50%"))))


def test_an_earlier_search_must_be_there_and_fit(settings: Make, tmp_path: Path) -> None:
    with pytest.raises(LwdcError, match="strategy=joint_front"):
        settings(searched=tmp_path)
    with pytest.raises(LwdcError, match=r"baseline\.safetensors"):
        prepare(settings(front=FRONT, searched=tmp_path))
    compress(settings(front=FRONT), tmp_path / "run", {}, until="baseline")
    with pytest.raises(CheckpointError, match=r"has no supernet\.pt"):
        prepare(settings(front=FRONT, searched=tmp_path / "run"))
    compress(settings(front=FRONT), tmp_path / "other", {}, until="search")
    other = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 4}])
    with pytest.raises(CheckpointError, match="not one of this network, space and strategy"):
        prepare(dataclasses.replace(settings(front=FRONT, searched=tmp_path / "other"), space=other))
