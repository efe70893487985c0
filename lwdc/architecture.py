"""Architectures: the operator chosen at every site, as plain data that can be replayed on the network."""

import copy
import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwdc.candidates import check, label
from lwdc.errors import ArchitectureError
from lwdc.files import read_json, write_json

_MOST = 8 << 20  # bytes of a file; some 50,000 sites


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One candidate per site, by the site's name, in forward order."""

    choices: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not isinstance(self.choices, Mapping):
            raise ArchitectureError(
                f"an architecture has one candidate per site, {{'layer1.0': {{'op': 'original'}}}}; "
                f"found {self.choices!r:.200}."
            )
        for site, candidate in self.choices.items():
            if not isinstance(candidate, Mapping) or "op" not in candidate:
                raise ArchitectureError(
                    f"architecture, site {site!r}: a candidate is written {{'op': name, option: value}}, "
                    f"found {candidate!r:.200}."
                )

    def to_dict(self) -> dict[str, Any]:
        """Json-ready data."""
        choices = {site: copy.deepcopy(dict(candidate)) for site, candidate in self.choices.items()}
        return {"format": 1, "choices": choices}

    @classmethod
    def from_dict(cls, data: Any) -> "Architecture":
        """The inverse of ``to_dict``. Raises ``ArchitectureError`` on anything else."""
        if not isinstance(data, dict) or data.get("format") != 1 or not isinstance(data.get("choices"), dict):
            raise ArchitectureError('an architecture is written {"format": 1, "choices": {site: candidate}}.')
        for site, candidate in data["choices"].items():
            try:
                check(candidate)
            except ValueError as error:
                raise ArchitectureError(f"architecture, site {site!r}: {error}") from error
        return cls({site: dict(candidate) for site, candidate in data["choices"].items()})

    def save(self, path: Path) -> None:
        """Write a json file, whole or not at all."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: Path) -> "Architecture":
        """Read a json file. Raises ``ArchitectureError`` if it is missing or holds something else."""
        try:
            data = read_json(Path(path), _MOST)
        except (OSError, ValueError) as error:
            raise ArchitectureError(f"no architecture can be read from {path}: {error}") from error
        return cls.from_dict(data)

    def changes(self, other: "Architecture") -> dict[str, tuple[str, str]]:
        """Sites where the two differ, with both labels; "-" where a site is missing."""
        names = [*self.choices, *(name for name in other.choices if name not in self.choices)]
        pairs = {name: (_label(self, name), _label(other, name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def pretty(self) -> str:
        """One line a site."""
        width = max((len(name) for name in self.choices), default=0)
        return "\n".join(f"{name:<{width}}  {label(candidate)}" for name, candidate in self.choices.items())

    def verdict(self) -> str | None:
        """A warning if the search found nothing, or fled to one operator without weights; else None."""
        counts = Counter(candidate["op"] for candidate in self.choices.values())
        if not counts:
            return None
        operator, count = counts.most_common(1)[0]
        if operator == "original" and count == len(self.choices):
            return "every site kept its original layer: nothing was compressed. Lower the budget or raise the factor."
        if operator in _PARAMETER_FREE and count > len(self.choices) / 2:
            return (
                f"{count} of {len(self.choices)} sites chose {operator!r}, which has no weights: "
                "the cost pressure was too strong or too early. Raise the budget or lower the factor."
            )
        return None


_PARAMETER_FREE = {"skip", "zero", "avg_pool", "max_pool"}


def _label(architecture: Architecture, site: str) -> str:
    return label(architecture.choices[site]) if site in architecture.choices else "-"
