"""What a run says before it begins: what it will do, on what, and what it leaves out and why."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lwdc.backbones import note_on_branches
from lwdc.costs import Agreement
from lwdc.pipeline.prepare import Prepared, Trainable
from lwdc.pipeline.settings import CostSettings
from lwdc.space import COSTLIER


def opening(prepared: Trainable, folder: Path) -> Iterator[str]:
    """Line by line; of a run that only trains, without a plan, it is short."""
    settings = prepared.settings
    name = f"{prepared.backbone.name} on {settings.data.name}"
    if not isinstance(prepared, Prepared):
        yield f"{name}; {settings.train.epochs} epochs; seed {settings.seed}; {folder}"
        yield from _of_network(prepared)
        return
    costs = zip(settings.cost.all, prepared.tables, strict=True)
    pressure = " and ".join(f"{table.name}, {_asked(cost)}" for cost, table in costs)
    epochs = "+".join(str(recipe.epochs) for recipe in (settings.train, settings.search, settings.finetune))
    yield f"{name}; {pressure}; {epochs} epochs; seed {settings.seed}; {folder}"
    yield from _of_network(prepared)
    yield from _plan(prepared)


def _of_network(prepared: Trainable) -> Iterator[str]:
    yield from prepared.notes
    yield from note_on_branches(prepared.model, prepared.settings.data.input_size)
    yield from _other_normalisation(prepared)


def _other_normalisation(prepared: Trainable) -> Iterator[str]:
    """A word where timm's weights were made for inputs with another mean and spread than those of the data."""
    named, given = prepared.settings.backbone, prepared.settings.data.preprocessing
    if not (named.pretrained or (named.weights is not None and "." in named.name)):  # a tag names weights of timm's
        return
    wanted = [tuple(getattr(prepared.model, "pretrained_cfg", {}).get(key) or ()) for key in ("mean", "std")]
    found = [given.mean, given.std]
    if [len(values) for values in wanted] != [len(values) for values in found] or np.allclose(wanted, found, atol=1e-3):
        return
    mean, std = (f"[{','.join(f'{value:g}' for value in values)}]" for values in wanted)
    yield (
        f"timm's weights of {named.name} are for inputs with mean {mean} and std {std}, and the data's are normalised "
        f"otherwise; give data.mean={mean} data.std={std}"
    )


def _plan(prepared: Prepared) -> Iterator[str]:
    plan = prepared.plan
    for index, table in enumerate(prepared.tables):
        sites = f"{len(plan.choices)} sites, {sum(len(c.candidates) for c in plan.choices)} operators; "
        reach = f"reachable {table.show(table.smallest)} to {table.show(table.largest)}"
        yield f"{'' if index else sites}{table.name} {table.show(table.total)}, {reach}"
        if table.agreement is not None:
            yield _agreement(table.agreement)
    dropped: dict[str, Counter[str]] = {}
    for name, reason in (entry for choice in plan.choices for entry in choice.dropped):
        dropped.setdefault(name, Counter())[reason] += 1
    for name, reasons in dropped.items():
        yield f"{name} dropped at {reasons.total()} site(s): {in_short(reasons)}"
    for name, reason in plan.left_alone:
        yield f"{name} left alone: {reason}"


def in_short(reasons: Counter[str]) -> str:
    """The reasons, each with its number; those of costs are one, whatever the costs."""
    if len(reasons) == 1:
        return next(iter(reasons))
    kinds: Counter[str] = Counter()
    for reason, count in reasons.items():
        kinds[COSTLIER if reason.startswith(COSTLIER) else reason] += count
    said = [f"{kind} ({count})" for kind, count in kinds.most_common(_KINDS)]
    return "; ".join(said) + (f"; {len(kinds) - _KINDS} more reasons, see lwdc inspect" if len(kinds) > _KINDS else "")


_KINDS = 3  # of reasons that are named


def _asked(cost: CostSettings) -> str:
    if cost.budget is not None:
        return f"budget {cost.budget}"
    return "as its score counts it" if cost.factor is None else f"factor {cost.factor}"


def _agreement(found: Agreement) -> str:
    return (
        f"of {found.networks} random architectures the table ranks what they take as measured with {found.rank:.2f} "
        f"(repeated measurements: {found.rank_repeated:.2f}), and is {found.error:.1%} off "
        f"({found.error_repeated:.1%})"
    )
