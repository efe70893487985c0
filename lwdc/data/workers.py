"""Workers: the processes that a loader has read examples, and what is said when one of them dies."""

import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from lwdc.errors import DataError


def begin(worker: int) -> None:
    """In a worker: Ctrl-C and a scheduler tell all processes to end, and only the one that saves shall answer.

    When that one is killed a worker ends, too. PyTorch looks for it in the parent, which may be another process.
    """
    del worker
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    served = multiprocessing.parent_process()
    if served is not None and served.pid != os.getppid():
        threading.Thread(target=_end_with, args=(served,), daemon=True).start()


def _end_with(served: BaseProcess) -> None:
    served.join()
    os._exit(1)


def loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """What ``loader`` gives. Raises ``DataError`` some seconds after a worker died, and only where a batch is due."""
    batches = _iterator(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            if (died := _death(error, batches)) is None:
                raise
            raise DataError(
                f"a process that reads images has died ({died}): if memory "
                "ran out, make do with fewer processes (data.workers) or smaller batches."
            ) from error
        yield batch


def _death(error: Exception, batches: Iterator[Any]) -> str | None:
    """How a worker died, if that is what ``error`` tells of; None if not."""
    message = str(error)
    if message.startswith("DataLoader worker (pid"):
        return message.splitlines()[0].strip().rstrip(".")
    if isinstance(error, RuntimeError) or "in DataLoader worker process" in message:  # raised by one that lives
        return None
    # One that dies while it hands a batch over breaks the connection, and that is noticed before its end is.
    workers = getattr(batches, "_workers", None)
    if not workers:
        return None
    ended = multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=_NOTICE_S)
    for worker in workers:
        worker.join(_NOTICE_S if worker.sentinel in ended else 0)
    pids = [str(worker.pid) for worker in workers if worker.exitcode]
    return f"DataLoader worker (pid {', '.join(pids)}) while it handed over a batch: {error!r}" if pids else None


def _iterator(loader: DataLoader[Any]) -> Iterator[Any]:
    """Without the handler that PyTorch installs, which raises at any moment, also while a file is written."""
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGCHLD, before)
    return batches


_NOTICE_S = 5.0  # how long the system may take to end a process whose connections are closed
