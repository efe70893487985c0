"""Objectives: the figures of a finished run that a search makes large or small."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lwdc.errors import LwdcError, unknown_name
from lwdc.records import COLUMNS

_SHARES = [f"{column.removesuffix('_before')}_share" for column in COLUMNS if column.endswith("_before")]
FIGURES = (*(c for c in COLUMNS if c.startswith("valid_") or c.endswith("_after")), *_SHARES)
_DIRECTIONS = {"maximise": True, "maximize": True, "minimise": False, "minimize": False}


@dataclasses.dataclass(frozen=True)
class Objective:
    """One figure, by its name in ``FIGURES``: a column of ``results.csv``, or a share, after / before."""

    name: str
    maximise: bool

    def __str__(self) -> str:
        return f"{'maximise' if self.maximise else 'minimise'} {self.name}"

    def value(self, row: Mapping[str, Any]) -> float:
        """The figure of a run that is done, by its row. Raises ``LwdcError`` if the run did not come so far."""
        if self.name in _SHARES:
            size = self.name.removesuffix("_share")
            before, after = row.get(f"{size}_before"), row.get(f"{size}_after")
            value = None if after is None or not before else after / before
        else:
            value = row.get(self.name)
        if value is None:
            known = [c for c in FIGURES if row.get(c) is not None]
            raise LwdcError(
                f"the run in {row['folder']} has no {self.name}; it has {', '.join(known) or 'none of the figures'}. "
                "Name others by hydra.sweeper.objectives=[...], in another hydra.sweep.dir."
            )
        return float(value)


def parse_objectives(texts: Sequence[str]) -> list[Objective]:
    """Objectives as they are written, like ``maximise valid_finetuned``.

    Raises ``LwdcError`` for what is none, and for figures of the test set.
    """
    found = [_parse(str(text)) for text in texts]
    if len({objective.name for objective in found}) < max(1, len(found)):
        raise LwdcError(
            f"hydra.sweeper.objectives needs one or more figures, each of them once; found {list(map(str, texts))}."
        )
    return found


def check_reached(objectives: Sequence[Objective], command: str) -> None:
    """Raises ``LwdcError`` for a figure that runs of a command do not come to."""
    for objective in objectives:
        if objective.name not in _EARLY.get(command, FIGURES):
            raise LwdcError(
                f"lwdc {command} finds no {objective.name}; it finds {', '.join(_EARLY[command])}. Name these by "
                "hydra.sweeper.objectives=[...], or give a command that goes further."
            )


_EARLY = {
    "train": ("valid_baseline",),
    "search": ("valid_baseline", "valid_supernet", "valid_discretised", "cost_after", "cost_share"),
}


def _parse(text: str) -> Objective:
    direction, _, name = text.strip().partition(" ")
    name = name.strip()
    if direction not in _DIRECTIONS or not name:
        raise LwdcError(f"an objective is written like 'maximise valid_finetuned'; found {text!r}.")
    if name.startswith("test"):
        raise LwdcError(
            f"{name} cannot be an objective: what is chosen by the test set is no longer judged by it. "
            f"Take one of the validation set: {', '.join(f for f in FIGURES if f.startswith('valid_'))}."
        )
    if name not in FIGURES:
        raise LwdcError(unknown_name("objective", name, FIGURES))
    return Objective(name, _DIRECTIONS[direction])
