"""Runs with strategy=joint_front: what may be asked of them, and one search for many."""

import dataclasses
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lwdc.architecture import Architecture
from lwdc.costs import CostTable, Macs, Params, tabulate
from lwdc.errors import CheckpointError, CostError, LwdcError
from lwdc.pipeline import CostSettings, FrontSettings, Interrupted, Run, Settings, compress, prepare
from lwdc.pipeline.settling import settle
from lwdc.space import SearchSpace
from lwdc.strategies import dial_of
from lwdc.training import Fit

Make = Callable[..., Settings]
FRONT = FrontSettings(("80%", 0.4), 3)


@pytest.fixture(scope="module")
def searched(settings: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search, which tests leave unchanged."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    compress(settings(front=FRONT), folder, {}, until="search")
    return folder


def test_reading_off_an_earlier_search_gives_what_a_run_of_its_own_would(
    settings: Make, searched: Path, tmp_path: Path
) -> None:
    asked = CostSettings(Macs(), budget=0.7)
    compress(settings(front=FRONT, cost=asked), tmp_path / "alone", {}, until="search")
    reading = settings(front=FRONT, cost=asked, searched=searched)
    compress(reading, tmp_path / "read", {}, until="search")
    alone, read = tmp_path / "alone", tmp_path / "read"
    assert Architecture.load(alone / "architecture.json") == Architecture.load(read / "architecture.json")
    assert Architecture.load(read / "architecture.json") != Architecture.load(searched / "architecture.json")
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


@pytest.mark.parametrize("phase", ["baseline", "search"])
def test_a_run_interrupted_in_its_own_search_may_go_on_with_anothers(
    settings: Make, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """As in a sweep side by side, where another run has searched meanwhile."""
    train = Run.train

    def stopping(run: Run, fit: Fit) -> float:
        run.stopped_by = signal.SIGINT if fit.phase == phase else None
        return train(run, fit)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train", stopping)
        with pytest.raises(Interrupted):
            compress(settings(front=FRONT), tmp_path / "run", {})
    result = compress(settings(front=FRONT, searched=searched), tmp_path / "run", {}, resume=True)
    assert result is not None
    wanted, found = (load_file(folder / "discretised.safetensors") for folder in (searched, tmp_path / "run"))
    assert all(torch.equal(value, found[key]) for key, value in wanted.items())


def test_once_it_is_read_off_a_run_needs_the_earlier_search_no_more(
    settings: Make, searched: Path, tmp_path: Path
) -> None:
    shutil.copytree(searched, tmp_path / "first")
    reading = settings(front=FRONT, searched=tmp_path / "first")
    compress(reading, tmp_path / "read", {}, until="search")
    (tmp_path / "first").rename(tmp_path / "gone")
    assert compress(reading, tmp_path / "read", {}, resume=True) is not None


def test_the_baseline_is_that_of_the_search_whatever_else_is_given(
    settings: Make, searched: Path, tmp_path: Path
) -> None:
    compress(settings(front=FRONT, seed=1), tmp_path / "other", {}, until="baseline")
    both = settings(front=FRONT, searched=searched, baseline=tmp_path / "other")
    compress(both, tmp_path / "read", {}, until="search")
    wanted, found = (load_file(folder / "baseline.safetensors") for folder in (searched, tmp_path / "read"))
    assert all(torch.equal(value, found[key]) for key, value in wanted.items())


class Dearer:
    """MACs, of which whole networks are measured to have fifty times what the table says."""

    name, unit = "dear", "MAC"

    def tabulate(self, supernet: nn.Module) -> CostTable:
        return dataclasses.replace(tabulate(supernet, Macs()), name=self.name)

    def measure(self, network: nn.Module, original: nn.Module, input_size: tuple[int, ...], table: CostTable) -> int:
        return 50 * Macs()(network, [input_size])


def test_the_supernet_is_left_where_the_choice_that_is_kept_was_made(settings: Make) -> None:
    prepared = prepare(settings(front=FRONT, cost=CostSettings(Dearer(), budget=0.6)))
    supernet = prepared.placed(prepared.supernet(prepared.model))
    missed = settle(prepared, prepared.lesson(supernet), prepared.model, lambda *_: None).missed
    assert missed is not None  # the second attempt, far below the range, found nothing
    assert dial_of(supernet).share == pytest.approx(0.6, rel=1e-3)


@pytest.mark.parametrize(("budgets", "knots"), [((0.5,), 3), (50, 3), ((0.5, 0.4), 1), ((0.5, 0.4), 2.5)])
def test_a_range_that_is_none_is_refused(budgets: tuple[float, ...], knots: int) -> None:
    with pytest.raises(LwdcError, match=r"strategy\.front\.(budgets|knots)"):
        FrontSettings(budgets, knots)  # type: ignore[arg-type]


def test_the_ends_of_a_range_must_differ(settings: Make) -> None:
    with pytest.raises(CostError, match="two ends of a range"):
        prepare(settings(front=FrontSettings((0.5, "50%"))))


def test_an_earlier_search_must_be_there_and_fit(settings: Make, searched: Path, tmp_path: Path) -> None:
    with pytest.raises(LwdcError, match="strategy=joint_front"):
        settings(searched=tmp_path)
    compress(settings(front=FRONT), tmp_path / "run", {}, until="baseline")
    with pytest.raises(CheckpointError, match=r"has no supernet\.pt"):
        prepare(settings(front=FRONT, searched=tmp_path / "run"))
    other = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 4}])
    with pytest.raises(CheckpointError, match="not one of this network, space and strategy"):
        prepare(dataclasses.replace(settings(front=FRONT, searched=searched), space=other))
