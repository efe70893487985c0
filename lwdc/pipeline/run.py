"""A run's folder: what is done, the checkpoint of what is not, the records, and a clean stop on signals."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lwdc.errors import CheckpointError, Interrupted, TrainingError
from lwdc.files import clear_leftovers, locked, parse_json
from lwdc.folders import CHECKPOINT, RECORDS, check_folder, typed
from lwdc.pipeline.compute import Compute
from lwdc.pipeline.ranks import Ranks
from lwdc.records import EpochRecord, Note, Record, Result
from lwdc.tracking import JsonlSink, ProgressSink, ReplaySink, Sink, parse_record, read_records
from lwdc.training import Fit, load_checkpoint, save_checkpoint
from lwdc.training.fit import StepRecord


class Run:
    """One run in ``folder``: phases are done once, and a killed run goes on from its last checkpoint.

    ``config`` is what a resumed run must agree with, except below the keys in ``ignore``; of these the one
    that is named like a phase counts once that phase has begun. Use as a context manager: it closes the sinks.
    Of several ``ranks`` only the first reads and writes, and the others learn from it.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        sinks: Sequence[Sink] = (),
        *,
        ranks: Ranks | None = None,
        resume: bool = False,
        ignore: Sequence[str] = (),
        checkpoint_minutes: float = 10.0,
    ) -> None:
        self.folder, self.config, self.ranks = folder, config, ranks or Ranks(Compute("cpu"))
        self._every = checkpoint_minutes * 60
        self.stopped_by: int | None = None  # a signal's number
        self._between_steps = False  # training looks for signals itself
        self._handlers: dict[int, Any] = {}
        self._saved_step = 0
        self._between_epochs: dict[str, Any] | None = None  # what to save if an epoch's validation is interrupted
        self.sinks: list[Sink] = []
        self._past: list[Record] = []

        def opened() -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None, list[str]]:
            check_folder(folder, resume=resume)
            folder.mkdir(parents=True, exist_ok=True)
            begun: dict[str, Any] = {"done": {}, "fit": None, "records": 0, "unreadable": []}
            state = resumable(folder, config, ignore) if resume else begun
            self._jsonl = JsonlSink(folder / RECORDS, keep=state["records"])
            self.sinks = [self._jsonl, *sinks]
            self._past = [parse_record(line) for line in read_records(folder / RECORDS)] if state["records"] else []
            for sink in sinks:
                if isinstance(sink, ReplaySink):
                    sink.replay(self._past)
            return state["done"], state["fit"], list(state.get("unreadable", []))

        self.done, self._fit_state, self.unreadable = self.ranks.from_first(opened)
        if not resume:
            self._save(None)

    def __enter__(self) -> "Run":
        if threading.current_thread() is threading.main_thread():
            self._handlers = {n: signal.signal(n, self._on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *failure: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for sink in self.sinks:
            sink.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """In training the first SIGINT or SIGTERM ends the step; the second, or one elsewhere, acts at once.

        So it does in validation, which may take longer than a scheduler waits: what was trained is saved then. Several
        ranks save before they validate, and end after it.
        """
        del frame
        at_once = self.stopped_by is not None or not self._between_steps or self._between_epochs is not None
        self.stopped_by = number
        if at_once:
            raise KeyboardInterrupt  # no library takes this for an error of its own

    def write(self, record: Record) -> None:
        """Hand a record to every sink."""
        for sink in self.sinks:
            sink.write(record)

    def note(self, text: str, level: str = "info") -> None:
        """Hand a sentence to every sink."""
        self.write(Note(text, level))

    def name_unreadable(self, files: Iterable[str]) -> str | None:
        """A warning about all files that could not be read, once some are new; handed to every sink."""
        new = [file for file in dict.fromkeys(files) if file not in set(self.unreadable)]
        self.unreadable += new
        if not self.unreadable:
            return None
        named = ", ".join(self.unreadable[:5]) + (", ..." if len(self.unreadable) > 5 else "")
        text = (
            f"{len(self.unreadable)} file(s) could not be read: left out of every accuracy, in training the next "
            f"one stood in: {named}"
        )
        if new:
            self.note(text, "warning")
        return text

    def finish(self, phase: str, **figures: Any) -> None:
        """Mark a phase as done, with figures for later phases; its files must be written already."""
        self.done[phase] = figures
        self._fit_state = None  # of this phase, if it was taken from another run after all
        self._save(None)

    def keep(self, phase: str, state: dict[str, Any], seconds: float) -> None:
        """Save the state of a phase under way that is no training, after ``seconds`` of it, with the records so far."""
        self._save({"state": {**state, "phase": phase}, "seconds": seconds})

    def unfinished(self, phase: str) -> dict[str, Any] | None:
        """What ``keep`` saved of the phase before the run was broken off, with its ``seconds``; None if nothing was."""
        fit, self._fit_state = self._fit_state, None
        if fit is None or fit["state"]["phase"] != phase:
            return None
        return {**fit["state"], "seconds": fit["seconds"]}

    def show_result(self) -> Result:
        """Hand the result of a finished run to every sink once more, but not to its records."""

        def shown() -> Result:
            result = next(record for record in reversed(self._past) if isinstance(record, Result))
            for sink in self.sinks[1:]:
                sink.write(result)
            return result

        return self.ranks.from_first(shown)

    def train(self, fit: Fit) -> float:
        """Run a phase's training to its end, from its checkpoint if there is one; returns its wall time in seconds.

        Raises ``Interrupted`` after a signal, which may be another rank's, and the fit's own errors; both leave a
        checkpoint.
        """
        seconds = 0.0
        if self._fit_state is not None:
            fit.load_state_dict(self._fit_state["state"])
            seconds = self._fit_state["seconds"]
            self.note(f"{fit.phase}: going on at step {fit.step} of {fit.total}")
            self._fit_state = None
        clock, saved, self._saved_step = time.monotonic(), time.monotonic(), fit.step
        with self._watching_signals(fit), self._naming_the_checkpoint(), self.ranks.noticing_loss():
            for record in fit.run():
                self._between_epochs = None
                now = time.monotonic()
                seconds, clock = seconds + now - clock, now
                epoch_end = isinstance(record, EpochRecord)
                if isinstance(record, EpochRecord):
                    self._write_epoch(record, fit)
                else:
                    self._progress(record)
                stop, due = self.ranks.most(self.stopped_by or 0, now - saved > self._every)
                last = isinstance(record, StepRecord) and record.step == record.steps
                # Several ranks cannot save while they validate, so they do before.
                if epoch_end or stop or due or (last and self.ranks.count > 1):
                    self._save({"state": fit.state_dict(), "seconds": seconds})
                    self.ranks.wait()
                    saved, self._saved_step = time.monotonic(), fit.step
                if stop:
                    self.stopped_by = stop
                    raise self._interrupted(fit)
                if last and self.ranks.count == 1:
                    self._between_epochs = self._state({"state": fit.state_dict(), "seconds": seconds})
                    if self.stopped_by is not None:  # by a signal that came since it was looked at
                        raise KeyboardInterrupt
        return seconds

    def _write_epoch(self, record: EpochRecord, fit: Fit) -> None:
        self.write(record)
        if record.skipped:
            self.note(
                f"{record.phase}: {record.skipped} of the {fit.steps} steps of epoch {record.epoch} were skipped, "
                "because their loss or gradient was not finite",
                "warning",
            )
        self.name_unreadable(self.ranks.gather(fit.data.unreadable_files()))

    @contextlib.contextmanager
    def _naming_the_checkpoint(self) -> Iterator[None]:
        try:
            yield
        except TrainingError as error:
            raise TrainingError(
                f"{error} The last good checkpoint, after step {self._saved_step}, is in {self.folder}."
            ) from error

    def _progress(self, record: StepRecord) -> None:
        for sink in self.sinks:
            if isinstance(sink, ProgressSink):
                sink.progress(record.phase, record.epoch, record.epochs, record.step, record.steps, record.loss)

    def _save(self, fit: dict[str, Any] | None) -> None:
        if self.ranks.first:
            save_checkpoint(self.folder / CHECKPOINT, self._state(fit))

    def _state(self, fit: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "config": json.dumps(self.config),
            "done": self.done,
            "fit": fit,
            "records": self._jsonl.count,
            "unreadable": list(self.unreadable),
        }

    @contextlib.contextmanager
    def _watching_signals(self, fit: Fit) -> Iterator[None]:
        self._between_steps = True
        try:
            yield
        except KeyboardInterrupt:
            if self._between_epochs is None:
                raise
            save_checkpoint(self.folder / CHECKPOINT, self._between_epochs)
            raise self._interrupted(fit) from None
        finally:
            self._between_steps, self._between_epochs = False, None

    def _interrupted(self, fit: Fit) -> Interrupted:
        assert self.stopped_by is not None
        return Interrupted(
            f"stopped in {fit.phase} after step {fit.step} of {fit.total}; everything is saved. "
            f"Go on with: {typed('resume', self.folder)}",
            self.stopped_by,
        )


@contextlib.contextmanager
def alone(folder: Path, *, resume: bool) -> Iterator[None]:
    """Hold a run's folder against other processes. Raises ``CheckpointError`` if one is at work there."""
    check_folder(folder, resume=resume)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / CHECKPOINT, wait=False))
        except BlockingIOError as error:
            raise CheckpointError(f"another process is at work in {folder}: wait until it ends, or stop it.") from error
        clear_leftovers(folder)
        yield


def resumable(folder: Path, config: dict[str, Any], ignore: Sequence[str]) -> dict[str, Any]:
    """The checkpoint of the run in ``folder``. Raises ``CheckpointError`` if it was started otherwise."""
    state = state_of(folder)
    begun = {*state["done"], *([state["fit"]["state"]["phase"]] if state["fit"] else [])}
    compare_configs(state["config"], config, [key for key in ignore if key not in begun])
    return state


def state_of(folder: Path) -> dict[str, Any]:
    """What the checkpoint in ``folder`` says of the run, its configuration as data. Raises ``CheckpointError``."""
    path = folder / CHECKPOINT
    state = load_checkpoint(path)
    try:
        config = parse_json(state["config"], finite=False)
        sound = isinstance(config, dict) and all(isinstance(f, dict) for f in (state["done"], *state["done"].values()))
        if state["fit"] is not None:
            sound &= isinstance(state["fit"]["state"]["phase"], str) and isinstance(state["fit"]["seconds"], float)
        if not sound or not isinstance(state["records"], int) or state["records"] < 0:
            raise ValueError("it holds other things than the state of a run")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path} is not that of a run ({reason}). Delete it to start this run anew.") from error
    return {**state, "config": config}


def compare_configs(saved: dict[str, Any], given: dict[str, Any], ignore: Sequence[str] = ()) -> None:
    """Raise ``CheckpointError`` with the differences, except below the keys in ``ignore``."""
    if differing := differences(saved, given, ignore):
        raise CheckpointError(
            f"the run was started with another configuration: {differing}. "
            "Resume it with the same settings, or start a new run."
        )


def differences(saved: dict[str, Any], given: dict[str, Any], ignore: Sequence[str] = ()) -> str:
    """What differs, except below the keys in ``ignore``, for a reader; nothing if nothing does."""
    old, new = (_SINCE | _flat(config) for config in (saved, given))
    return "; ".join(
        f"{key}: {old.get(key, '(absent)')!r} then, {new.get(key, '(absent)')!r} now"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not any(key == i or key.startswith(f"{i}.") for i in ignore)
    )


_SINCE = {"backbone.reparameterise": False}  # what earlier runs, and files of one's own, need not say


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(data, dict) and data:
        found: dict[str, Any] = {}
        for key, value in data.items():
            found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: data}
