"""Known evaluations: what architectures were found to be worth, in a file that runs can share."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lwdc.architecture import Architecture
from lwdc.errors import CheckpointError
from lwdc.evaluators import Evaluation, Evaluator, Subject, canonical, evaluate_all, fingerprint
from lwdc.files import parse_json, read_bytes, refusals

EVALUATIONS = "evaluations.jsonl"


class Known:
    """Evaluations by fingerprint and architecture, in a file of json lines, and those in the files of ``others``.

    Every addition is a line that is on the disk before ``add`` returns. One cut short by a kill is not read back, nor
    are failures: their cause may be gone. What cannot be read of the others is left out; of the own file it raises
    ``CheckpointError``. ``WriteError`` where the disk is full.
    """

    def __init__(self, path: Path, others: Iterable[Path] = ()) -> None:
        self.path = path
        self._own: dict[tuple[str, str], tuple[Evaluation, bool]] = {}
        self._others: dict[tuple[str, str], Evaluation] = {}
        try:
            self._own = _read(path) if path.is_file() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): delete it to evaluate anew.") from error
        for other in others:
            try:
                found = _read(other)
            except (OSError, ValueError):  # its damage is not this run's, which can evaluate on its own
                continue
            self._others |= {key: evaluation for key, (evaluation, _) in found.items()}

    def find(self, fingerprint: str, architecture: Architecture) -> tuple[Evaluation, bool] | None:
        """The evaluation, and whether another run has made it; what others have made becomes this one's."""
        key = fingerprint, canonical(architecture)
        if key not in self._own and key in self._others:
            self.add(fingerprint, architecture, self._others[key], cached=True)
        return self._own.get(key)

    def add(
        self, fingerprint: str, architecture: Architecture, evaluation: Evaluation, *, cached: bool = False
    ) -> None:  # fmt: skip
        """Keep an evaluation."""
        self._own[fingerprint, canonical(architecture)] = evaluation, cached
        line = {
            "fingerprint": fingerprint, "accuracy": evaluation.accuracy, "seconds": evaluation.seconds,
            "error": evaluation.error, "cached": cached, "choices": architecture.to_dict()["choices"],
        }  # fmt: skip
        with refusals(self.path), self.path.open("ab+") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # left by a kill
                    file.write(b"\n")
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path) -> dict[tuple[str, str], tuple[Evaluation, bool]]:
    found = {}
    for part in read_bytes(path).splitlines(keepends=True):
        try:
            line = parse_json(part)
            evaluation = Evaluation(line["accuracy"], line["seconds"], line["error"])
            architecture = Architecture.from_dict({"format": 1, "choices": line["choices"]})
            if part.endswith(b"\n") and _is_sound(evaluation) and type(line["cached"]) is bool:
                found[str(line["fingerprint"]), canonical(architecture)] = evaluation, line["cached"]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # cut short, or of another version
    return found


def _is_sound(evaluation: Evaluation) -> bool:
    accuracy, seconds = evaluation.accuracy, evaluation.seconds
    scored = isinstance(accuracy, float) and 0 <= accuracy <= 1 and evaluation.error is None
    return scored and isinstance(seconds, float) and seconds >= 0


class Judge:
    """One evaluator at work on one subject, which evaluates nothing twice."""

    def __init__(self, evaluator: Evaluator, subject: Subject, known: Known, jobs: int = 1) -> None:
        self.evaluator, self.subject, self.known, self.jobs = evaluator, subject, known, jobs
        self.fingerprint = fingerprint(evaluator, subject)

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[tuple[Evaluation, bool]]:
        """An evaluation for each, in their order, and whether an earlier search has made it."""
        missing = {canonical(a): a for a in architectures if self.known.find(self.fingerprint, a) is None}
        made = evaluate_all(self.evaluator, self.subject, list(missing.values()), self.jobs)
        for architecture in architectures:
            if (found := self.known.find(self.fingerprint, architecture)) is None:
                found = next(made), False
                self.known.add(self.fingerprint, architecture, found[0])
            yield found
