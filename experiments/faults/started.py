"""The command lwdc in processes of its own that need not import anything: they are forked from one that has."""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["lwdc.cli", "lwdc.report", "onnxruntime", "onnxscript", "torch.export", "torch.onnx", "sklearn.datasets"]
)


def start(arguments: list[str], log: Path) -> BaseProcess:
    """``lwdc`` with these arguments, in one thread; what it says is appended to ``log``."""
    process = _CONTEXT.Process(target=_run, args=(arguments, log))
    process.start()
    return process


def _run(arguments: list[str], log: Path) -> None:
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    import torch  # imported already, by the process that this one was forked from

    from lwdc import cli

    torch.set_num_threads(1)
    sys.argv = ["lwdc", *arguments]
    cli.main()
