"""Inspection: what a space offers at every site of a network, and at what cost, without training."""

from rich.console import Console
from rich.table import Table

from lwdc.backbones import check_fits, create, note_on_branches
from lwdc.candidates import label
from lwdc.costs import CostTable, tabulate
from lwdc.costs.budget import amount, parse_budget
from lwdc.errors import CostError
from lwdc.pipeline.settings import CostSettings, Settings
from lwdc.space import Choice, make_plan
from lwdc.surgery import wrap
from lwdc.tracing import Shape


def print_plan(settings: Settings, console: Console, given: tuple[Shape, int] | None = None) -> None:
    """Print sites, candidates, costs and what is left alone.

    ``given`` is an input shape and a number of classes; without it the data are read.
    """
    device = settings.compute.alone().fabric().device
    if given is None:
        settings.data.prepare(device)
        given = settings.data.input_size, settings.data.num_classes
    size, classes = given
    named = settings.backbone
    model, _ = create(named.of(classes, size[0]))
    check_fits(model, size, classes)
    plan = make_plan(model, settings.space, size)
    supernet = wrap(model, gate=settings.gate, inherit=False, plan=plan).to(device)
    tables = [tabulate(supernet, cost.model) for cost in settings.cost.all]
    table = tables[0]

    console.print(f"{named.name} on inputs of {tuple(size)}: {amount(table.total, table)}\n", highlight=False)
    for note in note_on_branches(model, size):
        console.print(f"{note}\n", highlight=False)
    rows = Table("site", "input", "output", "candidates (share of the original)", box=None, pad_edge=False)
    for choice in plan.choices:
        site = choice.site
        rows.add_row(
            site.name,
            _shape(site.input_shape),
            _shape(site.output_shape),
            _candidates(choice, table.sites[site.name], table.original[site.name]),
        )
    console.print(rows)
    for cost, table in zip(settings.cost.all, tables, strict=True):
        console.print(
            f"\n{len(plan.choices)} sites hold {_held(table):.1%} of the {table.name}; reachable: "
            f"{table.show(table.smallest)} ({table.smallest / table.total:.3f}) to {table.show(table.largest)} "
            f"({table.largest / table.total:.3f}){_asked(cost, table)}.",
            highlight=False,
        )
    console.print("* costs more than the original.", highlight=False)
    dropped: dict[tuple[str, str], list[str]] = {}
    for choice in plan.choices:
        for entry in choice.dropped:
            dropped.setdefault(entry, []).append(choice.site.name)
    for (name, reason), sites in dropped.items():
        console.print(f"dropped  {_some(sites)}: {name}: {reason}", highlight=False)
    left_alone: dict[str, list[str]] = {}
    for name, reason in plan.left_alone:
        left_alone.setdefault(reason, []).append(name)
    for reason, names in left_alone.items():
        console.print(f"left alone  {_some(names)}: {reason}", highlight=False)


def _asked(cost: CostSettings, table: CostTable) -> str:
    """What the budget comes to, if there is one, and if it can be reached."""
    if cost.budget is None:
        return ""
    try:
        return f"; budget {cost.budget}: {amount(parse_budget(cost.budget, table), table)}"
    except CostError as error:
        return f"; {str(error).rstrip('.')}"


def _held(table: CostTable) -> float:
    """The share of the sites in the original's cost; of a peak, how near the dearest of them comes to it."""
    costs = table.original.values()
    return (max(costs) if table.peak else sum(costs)) / table.total


def _candidates(choice: Choice, costs: "dict[str, int] | object", original: int) -> str:
    assert isinstance(costs, dict)
    entries = []
    for candidate in choice.candidates:
        cost = costs[label(candidate)]
        entries.append(f"{label(candidate)} {cost / max(original, 1):.2f}{'*' if cost > original else ''}")
    return ", ".join(entries)


def _some(names: list[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _shape(shape: Shape) -> str:
    return "x".join(str(n) for n in shape)
