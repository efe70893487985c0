"""Costs in a whole run: several at once, measured ones, and what a resumed run remembers of them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lwdc.architecture import Architecture
from lwdc.costs import CostTable, Macs, Memory, Params, Size, tabulate
from lwdc.counting import count_macs
from lwdc.errors import CostError
from lwdc.pipeline import CostSettings, FrontSettings, Settings, compress, prepare
from lwdc.pipeline.settling import settle
from lwdc.records import Note
from lwdc.tracing import Shape
from lwdc.tracking.jsonl import parse_record, read_records

MakeSettings = Callable[..., Settings]


@dataclasses.dataclass
class Measured:
    """Predicts a nanosecond a multiply-accumulate; a whole network takes ``factor`` times that."""

    factor: float
    name: str = "latency"
    unit: str = "ms"
    tabulated: int = 0

    def tabulate(self, supernet: nn.Module) -> CostTable:
        self.tabulated += 1
        return dataclasses.replace(tabulate(supernet, Macs()), name=self.name, unit=self.unit, per_unit=10**6)

    def measure(self, network: nn.Module, original: nn.Module, input_size: Shape, table: CostTable) -> int:
        assert table.total == count_macs(original, [input_size])
        return round(self.factor * count_macs(network, [input_size]))


def notes_of(folder: Path) -> list[str]:
    records = [parse_record(line) for line in read_records(folder / "records.jsonl")]
    return [record.text for record in records if isinstance(record, Note)]


def test_several_budgets_are_all_kept_in_one_run(settings: MakeSettings, tmp_path: Path) -> None:
    also = (CostSettings(Params(), budget="45%"), CostSettings(Size(), budget=0.6), CostSettings(Memory(), factor=0.1))
    result = compress(settings(cost=CostSettings(Macs(), budget=0.7, also=also)), tmp_path / "run", {})
    assert result is not None
    assert result.after.macs <= 0.7 * result.before.macs
    assert result.after.params <= 0.45 * result.before.params
    macs, params, size, memory = result.costs
    assert (macs.after, params.after) == (result.after.macs, result.after.params)
    assert size.bound is not None and size.after <= size.bound < size.before
    assert (memory.unit, memory.factor, memory.budget, memory.bound) == ("B", 0.1, None, None)
    assert any("macs, budget 0.7 and params, budget 45% and size" in note for note in notes_of(tmp_path / "run"))


def test_a_measured_cost_over_its_budget_is_chosen_again_until_it_holds(
    settings: MakeSettings, tmp_path: Path
) -> None:  # fmt: skip
    cost = CostSettings(Measured(1.25), budget=0.6)  # type: ignore[arg-type]
    result = compress(settings(cost=cost), tmp_path / "run", {})
    assert result is not None
    (found,) = result.costs
    assert found.measured is not None and found.bound is not None
    assert found.after <= found.measured <= found.bound
    assert found.measured == pytest.approx(1.25 * found.after, rel=1e-6)
    said = [note for note in notes_of(tmp_path / "run") if "predicted" in note]
    assert len(said) >= 2
    assert "above the budget of" in said[0] and "above" not in said[-1]


def test_a_budget_that_no_network_keeps_as_measured_gives_the_nearest_with_a_warning(settings: MakeSettings) -> None:
    prepared = prepare(settings(cost=CostSettings(Measured(50.0), budget=0.6)))  # type: ignore[arg-type]
    supernet = prepared.supernet(prepared.model)
    said: list[tuple[str, str]] = []
    lesson = prepared.lesson(supernet)
    architecture, (measured,), excess, warning = settle(prepared, lesson, prepared.model, lambda *n: said.append(n))
    assert isinstance(architecture, Architecture)
    assert measured == pytest.approx(50 * prepared.table.of(architecture) / 10**6)
    text, level = said[-1]
    assert level == "warning" and "no architecture tried keeps the budget as measured" in text
    assert warning == text and f"{excess:.1%} above it" in text


def test_a_budget_that_was_missed_is_among_the_warnings_of_the_result(settings: MakeSettings, tmp_path: Path) -> None:
    cost = CostSettings(Measured(50.0), budget=0.6)  # type: ignore[arg-type]
    result = compress(settings(cost=cost), tmp_path / "run", {})
    assert result is not None and result.costs[0].measured is not None and result.costs[0].bound is not None
    assert any("no architecture tried keeps the budget as measured" in warning for warning in result.warnings)
    card = (tmp_path / "run" / "model_card.md").read_text()
    assert "latency in ms, as measured when it was chosen, bound" in card and result.warnings[0] in card


@pytest.mark.parametrize(
    ("changes", "unit"),
    [
        ({"budget": "5mss"}, "'mss', the cost is counted in ms"),
        ({"budget": "40MMAC"}, "'MMAC', the cost is counted in ms"),
        ({"budget": 0.5, "also": (CostSettings(Params(), budget="2MB"),)}, "'MB', the cost is counted in params"),
    ],
)
def test_a_mistyped_budget_is_refused_before_anything_is_measured(
    settings: MakeSettings, changes: dict[str, Any], unit: str
) -> None:
    model = Measured(1.0)
    with pytest.raises(CostError, match=unit):
        prepare(settings(cost=CostSettings(model, **changes)))  # type: ignore[arg-type]
    assert model.tabulated == 0


def test_mistyped_ends_of_a_front_are_refused_before_anything_is_measured(settings: MakeSettings) -> None:
    model = Measured(1.0)
    with pytest.raises(CostError, match="budget '5mss' has the unit"):
        prepare(settings(cost=CostSettings(model, budget=0.5), front=FrontSettings(("25%", "5mss"))))  # type: ignore[arg-type]
    assert model.tabulated == 0


def test_a_resumed_run_takes_the_costs_that_it_found_before(settings: MakeSettings, tmp_path: Path) -> None:
    model = Measured(1.0)
    given = settings(cost=CostSettings(model, budget=0.6))  # type: ignore[arg-type]
    folder = tmp_path / "run"
    compress(given, folder, {}, until="search")
    assert model.tabulated == 1
    tables = [CostTable.from_dict(table) for table in json.loads((folder / "costs.json").read_text())]
    result = compress(given, folder, {}, resume=True)
    assert model.tabulated == 1
    assert result is not None and result.costs[0].before == tables[0].total / 10**6


def test_the_size_is_that_of_the_package_without_its_header(settings: MakeSettings, tmp_path: Path) -> None:
    cost = CostSettings(Size(), budget=0.5)
    result = compress(settings(cost=cost, formats=("safetensors",)), tmp_path / "run", {})
    assert result is not None
    package = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert result.costs[0].after == len(package) - 8 - int.from_bytes(package[:8], "little")


def test_tables_survive_being_written() -> None:
    table = CostTable("x", "ms", {"a": {"original": 3}}, {"a": 3}, {"a": "a"}, 1, 10**6, peak=True)
    assert CostTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


def test_inspection_shows_a_measured_cost_in_its_unit(
    settings: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from lwdc.pipeline.inspection import print_plan

    print_plan(settings(cost=CostSettings(Measured(1.0), budget=0.5)), Console(width=200))  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert " ms" in said.splitlines()[0]
    assert "of the latency; reachable: 0." in said
