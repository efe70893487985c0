"""Costs that the user has measured: a table from a file."""

import csv
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from lwdc.costs.table import CostTable, Entry, laid_out
from lwdc.errors import CostError
from lwdc.files import parse_json, read_text

_DIGITS = 9  # of the largest cost that are kept
_MOST = 1e15  # that sums of costs stay exact


@dataclasses.dataclass(frozen=True)
class FromFile:
    """A cost of every operator at every site, such as energy, from a csv or json file.

    A csv file has the columns ``site``, ``operator`` and ``cost``: a row for each operator by its label (``lwdc
    inspect`` lists them), and for each layer itself as ``original``, also for layers that the space leaves alone; one
    with neither site nor operator is the cost of all the rest (0 without it). A json file is ``{"rest": 1.5,
    "sites": {"layer1.0.conv1": {"original": 2.5, "grouped_4": 0.9}}}``. The cost of a network is the sum.
    """

    file: str
    name: str = "cost"
    unit: str = "units"

    def tabulate(self, supernet: nn.Module) -> CostTable:
        """The file's costs for the operators of ``supernet``. Raises ``CostError`` for what it lacks or cannot be."""
        path = Path(self.file)
        found = dict(_checked(path))
        if too_large := [where for where, cost in found.items() if cost > _MOST]:
            raise CostError(f"{path}: the cost of {too_large[0]} is above {_MOST:g}; give them in a larger unit.")
        largest = max((abs(cost) for cost in found.values()), default=0)
        per_unit = 10 ** max(0, _DIGITS - math.floor(math.log10(largest)) - 1) if largest else 1

        def cost(entry: Entry) -> int:
            if (entry.site, entry.label) not in found:
                raise CostError(
                    f"{path} has no cost of {entry.label!r} at {entry.site!r}: add that row, or take the operator out "
                    "of the space."
                )
            return round(found[entry.site, entry.label] * per_unit)

        sites, original, groups = laid_out(supernet, cost)
        alone = [cost for (site, operator), cost in found.items() if operator == "original" and site not in sites]
        rest = round((found.get(("", ""), 0.0) + sum(alone)) * per_unit)
        table = CostTable(self.name, self.unit, sites, original, groups, rest, per_unit)
        if table.total <= 0:
            raise CostError(f"by {path} the original network costs nothing: there is nothing to save.")
        return table


def _checked(path: Path) -> Iterator[tuple[tuple[str, str], float]]:
    seen = set()
    for site, operator, value in _read(path):
        where = f"{operator!r} at {site!r}" if site or operator else "the rest"
        try:
            cost = float(value)
        except (TypeError, ValueError):
            raise CostError(f"{path}: the cost of {where} is no number: {value!r}.") from None
        if not math.isfinite(cost) or cost < 0:
            raise CostError(f"{path}: the cost of {where} is {value}; it must be finite and not negative.")
        if (site, operator) in seen:
            raise CostError(f"{path} gives the cost of {where} twice.")
        seen.add((site, operator))
        yield (site, operator), cost


def _read(path: Path) -> Iterator[tuple[str, str, Any]]:
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise CostError(f"cost.model.file: no table of costs can be read from {path}: {error}.") from error
    if path.suffix == ".json":
        yield from _read_json(path, text)
        return
    try:
        yield from _read_csv(path, text)
    except csv.Error as error:
        raise CostError(f"{path} is no table of costs: {error}.") from error


def _read_csv(path: Path, text: str) -> Iterator[tuple[str, str, Any]]:
    rows = csv.DictReader(text.splitlines())
    if set(rows.fieldnames or ()) != {"site", "operator", "cost"}:
        raise CostError(f"{path} has the columns {rows.fieldnames}; a table of costs has site, operator and cost.")
    for row in rows:
        yield (row["site"] or "").strip(), (row["operator"] or "").strip(), row["cost"]


def _read_json(path: Path, text: str) -> Iterator[tuple[str, str, Any]]:
    try:
        data = parse_json(text, finite=False)  # what is not finite is refused by name
        yield "", "", data.get("rest", 0.0)
        for site, costs in data["sites"].items():
            for operator, cost in costs.items():
                yield site, operator, cost
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CostError(
            f'{path} is no table of costs: {error!r}; it is written {{"rest": 1.5, "sites": {{"SITE": '
            '{"original": 2.5, "OPERATOR": 0.9}}}}.'
        ) from error
