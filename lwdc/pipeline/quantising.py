"""Quantising: the int8 file of a run, with its accuracy and speed beside those of the float32 file."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from lwdc.data import DataModule
from lwdc.export import INT8_FILE, run_onnx, to_int8
from lwdc.pipeline.measures import measure_files
from lwdc.records import FileMeasures, Int8Result

FLOAT_FILE = "model.onnx"
_EXAMPLES = 256  # of the training set, for the ranges of activations


def quantise(
    folder: Path, data: DataModule, batch_size: int, latency_batches: Sequence[int], *, seed: int = 0
) -> Int8Result:
    """Write the int8 file beside ``model.onnx`` in ``folder``, and measure both in ONNX Runtime on the CPU, in turns.

    The ranges of activations are those of training examples. Raises ``ExportError`` if it cannot be done.
    """
    size = min(batch_size, _EXAMPLES, data.num_train())
    inputs = (batch for batch, _ in data.train(seed=seed, epoch=0, batch_size=size))
    to_int8(folder / FLOAT_FILE, folder / INT8_FILE, itertools.islice(inputs, max(1, _EXAMPLES // size)))
    paths = [folder / FLOAT_FILE, folder / INT8_FILE]
    runs = [run_onnx(path) for path in paths]
    times = measure_files(runs, data.input_size, latency_batches)
    measured = [
        FileMeasures(
            file=path.name,
            bytes=path.stat().st_size,
            valid=_accuracy(run, data, "valid", batch_size),
            test=_accuracy(run, data, "test", batch_size),
            latency_ms=latency,
        )
        for path, run, latency in zip(paths, runs, times, strict=True)
    ]
    return Int8Result(*measured)


def warning_of(result: Int8Result) -> str | None:
    """A word on lost accuracy, where there is much of it."""
    lost = result.float32.valid - result.int8.valid
    if lost <= _MUCH:
        return None
    return f"{LOST} {100 * lost:.1f} points of validation accuracy against float32: check before you use its file"


LOST = "int8 loses"
_MUCH = 0.01


def _accuracy(run: Callable[[Tensor], Tensor], data: DataModule, split: str, batch_size: int) -> float:
    right = total = 0
    for inputs, labels in data.batches(split, batch_size):
        right += int((run(inputs.cpu()).argmax(1) == labels.cpu()).sum())
        total += len(labels)
    return right / total
