"""The command lwdc in processes of its own that need not import anything: they are forked from one that has."""

import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["lwdc.commands", "lwdc.report", "onnxruntime", "onnxscript", "torch.export", "torch.onnx", "sklearn.datasets"]
)


def start(arguments: list[str], log: Path) -> BaseProcess:
    """``lwdc`` with these arguments, in one thread; what it says is appended to ``log``."""
    heard, said = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=(arguments, log, said))
    process.start()
    heard.recv()  # before that a signal would meet multiprocessing, and not lwdc
    return process


def _run(arguments: list[str], log: Path, said: Connection) -> None:
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    import torch  # imported already, by the process that this one was forked from

    from lwdc import cli

    torch.set_num_threads(1)
    sys.argv = ["lwdc", *arguments]
    said.send(None)
    cli.main()
