"""Costs from a file of the user's."""

import json
from pathlib import Path

import pytest
from torch import nn

from lwdc.architecture import Architecture
from lwdc.costs import FromFile, Macs, parse_budget, tabulate
from lwdc.errors import CostError
from lwdc.space import SearchSpace
from lwdc.surgery import wrap

SUPERNET = wrap(
    nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))),
    SearchSpace([{"op": "original"}, {"op": "pointwise"}], per_site={"2": [{"op": "pointwise"}, {"op": "zero"}]}),
    input_size=(4, 6, 6),
)
ROWS = [
    ("", "", "0.25"), ("1", "original", "1.5"), ("1", "pointwise", "0.5"),
    ("2", "original", "2"), ("2", "pointwise", "1e-3"), ("2", "zero", "0"), ("head", "original", "9"),
]  # fmt: skip
CHEAP = Architecture({"1": {"op": "pointwise"}, "2": {"op": "zero"}})


def written(path: Path, rows: list[tuple[str, str, str]]) -> FromFile:
    """As csv, or as json by the file's name."""
    if path.suffix == ".json":
        sites: dict[str, dict[str, float]] = {}
        for site, operator, cost in rows:
            if site:
                sites.setdefault(site, {})[operator] = float(cost)
        path.write_text(json.dumps({"rest": 0.25, "sites": sites}))
    else:
        path.write_text("\n".join(["\ufeffsite,operator,cost", *map(",".join, rows)]))  # as some spreadsheets write it
    return FromFile(str(path), unit="mJ")


@pytest.mark.parametrize("name", ["energy.csv", "energy.json"])
def test_a_network_costs_what_the_file_says(name: str, tmp_path: Path) -> None:
    table = tabulate(SUPERNET, written(tmp_path / name, ROWS))
    assert table.total / table.per_unit == pytest.approx(12.75, rel=1e-8)  # with that of a layer outside of the space
    assert table.of(CHEAP) / table.per_unit == pytest.approx(9.75, rel=1e-8)
    assert table.show(table.total) == "12.8 mJ"
    assert parse_budget("10mJ", table) == 10 * table.per_unit
    assert table.groups == tabulate(SUPERNET, Macs()).groups


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_small_and_large_numbers_keep_their_digits(scale: float, tmp_path: Path) -> None:
    rows = [(site, operator, repr(float(cost) * scale)) for site, operator, cost in ROWS]
    table = tabulate(SUPERNET, written(tmp_path / "energy.csv", rows))
    assert table.of(CHEAP) / table.total == pytest.approx(9.75 / 12.75, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:2] + rows[3:], "has no cost of 'pointwise' at '1': add that row, or take the operator out"),
        (lambda rows: rows[:3] + rows[4:], "has no cost of 'original' at '2'"),
        (lambda rows: [*rows, ("1", "zero", "nan")], "the cost of 'zero' at '1' is nan; it must be finite"),
        (lambda rows: [*rows, ("1", "zero", "-1")], "the cost of 'zero' at '1' is -1; it must be finite and not neg"),
        (lambda rows: [*rows, ("1", "zero", "much")], "the cost of 'zero' at '1' is no number: 'much'"),
        (
            lambda rows: [*rows, ("1", "zero", "1e30")],
            "the cost of .*'zero'.* is above 1e.15; give them in a larger unit",
        ),
        (lambda rows: [*rows, rows[1]], "gives the cost of 'original' at '1' twice"),
        (lambda rows: [(s, o, "0") for s, o, _ in rows], "the original network costs nothing"),
    ],
)
def test_what_is_missing_or_impossible_is_named(change, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CostError, match=message):
        tabulate(SUPERNET, written(tmp_path / "energy.csv", change(ROWS)))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "layer,cost\n1,2",
            "has the columns .*'layer', 'cost'.*; a table of costs has site, operator and cost",
        ),
        ("a.json", "[1, 2]", "is no table of costs"),
        ("a.json", "{", "is no table of costs"),
        ("a.json", '{"rest": 1}', "is no table of costs: KeyError"),
    ],
)
def test_another_file_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CostError, match=message):
        tabulate(SUPERNET, FromFile(str(tmp_path / name)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CostError, match=r"no table of costs can be read from .*none\.csv"):
        tabulate(SUPERNET, FromFile(str(tmp_path / "none.csv")))
