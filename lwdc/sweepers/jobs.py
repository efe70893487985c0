"""Jobs: the runs that a sweep hands to a launcher, and what it learns of them."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from lwdc.errors import Interrupted, LwdcError, Refused
from lwdc.folders import typed

ONE_BY_ONE = "basic"  # Hydra's launcher that needs no other process
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class WatchedLauncher(Launcher):
    """Another launcher, which is already set up, and what its runs answer: each a row of ``results.csv``.

    ``launch`` raises ``Refused`` if a run was interrupted, or if its process ended without an answer.
    """

    def __init__(self, launcher: Launcher, config: DictConfig) -> None:
        self._launcher = launcher
        self._name = launcher_of(config)
        self._sweep = str(config.hydra.sweep.dir)

    def setup(self, **given: Any) -> None:
        raise NotImplementedError("the launcher is set up already")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        handing_on = _handing_on_signals() if self._name == "joblib" else contextlib.nullcontext()
        try:
            with handing_on:
                jobs = self._launcher.launch(job_overrides, initial_job_idx)
        except Exception as error:
            if not type(error).__module__.startswith(("joblib.", "submitit.")):
                raise
            message = (
                f"a run's process is lost: {str(error).splitlines()[0].rstrip('.')}. Others may still be at work, and "
                f"those will be refused. {self._how}"
            )
            raise Refused(LwdcError(message)) from error
        rows = answers(jobs)
        if self._name != ONE_BY_ONE:  # which lets runs say so themselves, on this terminal
            for row in failed(rows):
                print(f"{row['folder']}: {row['status']}", file=sys.stderr)
        stopped = [row for row in rows if row["status"] == "interrupted"]
        if stopped:
            message = f"stopped with {len(stopped)} run(s) unfinished; everything is saved. {self._how}"
            raise Refused(Interrupted(message, stopped[0]["signal"]))
        return jobs

    @property
    def _how(self) -> str:
        return f"Go on by the same command and {typed('hydra.sweep.dir', self._sweep)}"


def launcher_of(config: DictConfig) -> str:
    """The name of the launcher that was chosen, such as ``basic`` or ``submitit_local``."""
    return str(config.hydra.runtime.choices["hydra/launcher"])


def answers(jobs: Iterable[JobReturn]) -> list[Mapping[str, Any]]:
    """What those runs answered that came to an end: failures that lwdc knows, too, but no other exceptions."""
    return [job.return_value for job in jobs if job.status == JobStatus.COMPLETED]


def failed(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of runs that failed."""
    return [row for row in rows if row["status"].startswith("failed")]


def refuse_failures(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise ``Refused``, at the end of a sweep, if any of its runs failed."""
    if failures := failed(rows):
        raise Refused(LwdcError(f"{len(failures)} run(s) of the sweep failed; results.csv says which"))


@contextlib.contextmanager
def _handing_on_signals() -> Iterator[None]:
    """The first SIGINT or SIGTERM lets the runs in joblib's processes stop with all saved; a second acts at once."""
    asked = False

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        del frame
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("waiting until the runs have saved what they have; once more stops at once", file=sys.stderr)
        if number == signal.SIGTERM or not os.isatty(0):  # a terminal's Ctrl-C has reached them already
            for process in multiprocessing.active_children():
                assert process.pid is not None
                os.kill(process.pid, number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, hand_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
