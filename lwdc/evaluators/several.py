"""Several evaluations at a time, in processes of their own."""

import importlib
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import torch
from joblib import Parallel, delayed

from lwdc.architecture import Architecture
from lwdc.candidates import origin, parts
from lwdc.errors import TrainingError
from lwdc.evaluators.base import Evaluation, Evaluator, Subject, evaluate


def evaluate_all(
    evaluator: Evaluator, subject: Subject, architectures: Sequence[Architecture], jobs: int = 1
) -> Iterator[Evaluation]:
    """One evaluation for each architecture, in their order, ``jobs`` at a time; what is found hangs not on ``jobs``.

    Each process has as many threads as this one. Raises ``TrainingError`` if one of them is killed.
    """
    if jobs == 1 or len(architectures) < 2:
        yield from (evaluate(evaluator, subject, architecture) for architecture in architectures)
        return
    here = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), _modules_of(architectures)
    work = Parallel(n_jobs=jobs, return_as="generator", mmap_mode=None, max_nbytes=None, pre_dispatch=jobs)
    try:
        yield from work(delayed(_elsewhere)(evaluator, subject, architecture, *here) for architecture in architectures)
    except BrokenProcessPool as error:
        lines = str(error.__cause__ or error).replace('"""', "").split("\n")  # a traceback, of which the end says most
        reason = next((line.strip(" .") for line in reversed(lines) if line.strip()), type(error).__name__)
        raise TrainingError(
            f"a process that evaluated an architecture has ended before its time: {reason}. Where memory is "
            "short that is what happens: lower strategy.jobs."
        ) from error


def _modules_of(architectures: Sequence[Architecture]) -> list[str]:
    """The modules that register the architectures' operators, which a fresh process may not have imported."""
    candidates = [candidate for architecture in architectures for candidate in architecture.choices.values()]
    used = {used["op"] for candidate in candidates for used in (candidate, *parts(candidate))}
    return sorted({origin(name) for name in used} - {"__main__"})


def _elsewhere(
    evaluator: Evaluator,
    subject: Subject,
    architecture: Architecture,
    threads: int,
    deterministic: bool,
    modules: Sequence[str],
) -> Evaluation:
    """One evaluation, in a process that leaves interrupts to the one that asked for it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in modules:
        importlib.import_module(module)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    return evaluate(evaluator, subject, architecture)
