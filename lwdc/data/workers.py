"""Workers: the processes that a loader has read examples, and what is said when one of them dies."""

import signal
import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from lwdc.errors import DataError


def ignore_signals(worker: int) -> None:
    """In a worker: Ctrl-C and a scheduler tell all processes to end, and only the one that saves shall answer."""
    del worker
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """What ``loader`` gives. Raises ``DataError`` some seconds after a worker died, and only where a batch is due."""
    batches = _iterator(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker (pid"):
                raise
            raise DataError(
                f"a process that reads images has died ({str(error).splitlines()[0].strip().rstrip('.')}): if memory "
                "ran out, make do with fewer processes (data.workers) or smaller batches."
            ) from error
        yield batch


def _iterator(loader: DataLoader[Any]) -> Iterator[Any]:
    """Without the handler that PyTorch installs, which raises at any moment, also while a file is written."""
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGCHLD, before)
    return batches
