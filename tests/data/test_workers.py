"""A process that reads images and dies is told from one that hands on what it met."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from lwdc.data.workers import loaded
from lwdc.errors import DataError


class Calling(Dataset[Any]):
    """Its one example calls ``read``."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self.read = read

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return self.read()


def loader(read: Callable[[], Any], workers: int = 1) -> DataLoader[Any]:
    return DataLoader(Calling(read), batch_size=None, num_workers=workers)


class Torn:
    """What breaks the connection to its sender where it is received, a moment before the sender ends."""

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return _tear, (os.getpid(),)


def _tear(sender: int) -> None:
    threading.Timer(0.3, os.kill, (sender, signal.SIGKILL)).start()
    raise ConnectionResetError("reset by peer")


def missing() -> None:
    raise FileNotFoundError("photo.jpg is gone")


def broken_pipe() -> None:
    raise BrokenPipeError("of a data set's own")


def test_a_worker_that_dies_while_it_hands_over_a_batch_is_named() -> None:
    with pytest.raises(
        DataError, match=r"has died \(DataLoader worker \(pid \d+\) while .*reset by peer.*data.workers"
    ):
        list(loaded(loader(Torn)))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("read", [missing, broken_pipe])
def test_what_reading_raises_is_handed_on_as_it_is(read: Callable[[], None], workers: int) -> None:
    with pytest.raises(OSError, match=r"photo.jpg is gone|of a data set's own"):
        list(loaded(loader(read, workers)))


def test_workers_end_with_the_process_that_they_read_for_whatever_their_parent_is(tmp_path: Path) -> None:
    script = tmp_path / "reads.py"
    script.write_text(
        "import os, time\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "from lwdc.data.workers import begin\n"
        "class Pids(Dataset):\n"
        "    __len__ = lambda self: 10\n"
        "    __getitem__ = lambda self, index: (os.getpid(), os.getppid())\n"
        "if __name__ == '__main__':\n"
        "    how = dict(batch_size=None, multiprocessing_context='forkserver', worker_init_fn=begin)\n"
        "    pids = iter(DataLoader(Pids(), num_workers=1, **how))\n"
        "    print(*next(pids), flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker, parent = map(int, process.stdout.readline().split())
        assert parent != process.pid
        os.kill(worker, 0)  # it is there
        process.kill()
    with pytest.raises(ProcessLookupError):
        for _ in range(600):
            os.kill(worker, 0)
            time.sleep(0.1)
