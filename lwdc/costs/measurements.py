"""Measurements on disk: what operators took, by the circumstances in which they were measured."""

import json
import statistics
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lwdc.errors import CostError
from lwdc.files import parse_json, read_text, refusals


class Measurements:
    """Seconds by key, under one ``environment``, in a file of json lines that may hold others.

    With each stands the ``level``: what a reference took at that moment, because a machine is not always equally fast.
    Every addition is one line, whole or not there; a line cut short by a kill is left out. Without a ``path``
    nothing is read or kept.
    """

    def __init__(self, path: Path | None, environment: Mapping[str, Any]) -> None:
        self.path, self.environment = path, dict(environment)
        self.found: dict[str, tuple[float, float]] = {}  # key -> seconds, level
        self._elsewhere: list[dict[str, Any]] = []
        for line in _lines(path):
            if line["environment"] == self.environment:
                self.found |= {key: (seconds, line["level"]) for key, seconds in line["seconds"].items()}
            elif line["environment"] not in self._elsewhere:
                self._elsewhere.append(line["environment"])

    def check_writable(self) -> None:
        """Before anything is measured. Raises ``CostError``."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("ab").close()
        except OSError as error:
            raise CostError(
                f"cost.cache={self.path} cannot be written: {error.strerror}. "
                "Name another file, or null to keep nothing."
            ) from error

    def add(self, seconds: Mapping[str, float], level: float) -> None:
        """Keep what was measured while the reference took ``level`` seconds."""
        self.found |= {key: (took, level) for key, took in seconds.items()}
        if self.path is None:
            return
        line = {"environment": self.environment, "level": level, "seconds": dict(seconds)}
        with refusals(self.path), self.path.open("ab+") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # left by a kill
                    file.write(b"\n")
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()

    def level(self, keys: Collection[str]) -> float:
        """The typical level at which ``keys`` were measured."""
        return statistics.median(self.found[key][1] for key in keys)

    def levelled(self, keys: Collection[str]) -> dict[str, float]:
        """Seconds of ``keys``, as if all had been measured at their typical level."""
        level = self.level(keys)
        return {key: self.found[key][0] * level / self.found[key][1] for key in keys}

    def others(self) -> str:
        """How the environments that the file holds besides differ from this one; empty if it holds none."""
        said = []
        for other in self._elsewhere:
            keys = {*other, *self.environment}
            differing = sorted(key for key in keys if other.get(key) != self.environment.get(key))
            said.append(", ".join(f"{key} {other.get(key)!r}" for key in differing))
        return "; ".join(said)


def _lines(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.is_file():
        return []
    try:
        text = read_text(path, errors="replace")
    except (OSError, ValueError) as error:
        raise CostError(f"cost.cache={path} cannot be read ({error}). Name another file, or delete it.") from error
    found = []
    for part in text.splitlines():
        try:
            line = parse_json(part)
            seconds = {str(key): float(value) for key, value in line["seconds"].items()}
            if min(line["level"], *seconds.values()) <= 0:
                continue
            found.append({"environment": dict(line["environment"]), "level": float(line["level"]), "seconds": seconds})
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # cut short, or of another version: measured again
    return found
