"""Sink: what takes the records of a run, one at a time and in order."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from lwdc.records import Record


class Sink(Protocol):
    """Takes every record of a run; ``close`` comes once, after the last one or after an error."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class ProgressSink(Protocol):
    """A sink that also follows the steps within an epoch; it is told of every one, so it must be quick."""

    def progress(self, phase: str, epoch: int, epochs: int, step: int, steps: int, loss: float | None) -> None:
        """``step`` of ``steps`` is done in ``epoch`` of ``epochs``, both counted from 1."""


@runtime_checkable
class ReplaySink(Protocol):
    """A sink that, in a resumed run, must know what came before."""

    def replay(self, records: Sequence[Record]) -> None:
        """The records up to the checkpoint, in order; called once, before the first ``write``."""
