"""A small sweep to report on, and the records of a search by scores."""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from lwdc import cli
from lwdc.files import locked
from lwdc.records import CorrelationRecord, EmbeddingRecord, EvaluationRecord, Record
from lwdc.tracking import JsonlSink, parse_record, read_records

SETTINGS = [
    "backbone=cifar_resnet8", "+backbone.options.channels=[4,8,8]", "data.limit_train=320", "compute=cpu",
    "compute.threads=1", "train.epochs=1", "strategy.epochs=2", "finetune.epochs=1", "export.formats=[safetensors]",
    "latency_batches=[1]", "cost.budget=0.6,0.8,0.001",
]  # fmt: skip


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that end, and one that is refused. Tests leave it unchanged."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "sweep"
    done = folder.with_name("sweep.done")
    with locked(done):  # once for all processes that test
        if not done.exists():
            _sweep(folder)
            done.touch()
    return folder


def _sweep(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.delenv("LWDC_DEBUG", raising=False)
        patch.setattr(sys, "argv", ["lwdc", "compress", "-m", *SETTINGS, f"hydra.sweep.dir={folder}"])
        with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
            cli.main()
    GlobalHydra.instance().clear()
    assert end.value.code == 2, said.getvalue()


# Scores are accuracies over that of an original with 0.8.
_ACCURACIES = (0.72, None, 0.76, 0.74, 0.84, 0.8)
_SCORES = (0.9, None, 0.95, 0.925, 1.05, 1.0)
_BEST = (0.9, 0.9, 0.95, 0.95, 1.05, 1.05)
_PREDICTED = (None, 0.7, 0.75, 0.76, 0.79, 0.78)


def _evaluation(index: int) -> EvaluationRecord:
    accuracy = _ACCURACIES[index - 1]
    return EvaluationRecord(
        index, 8, {"layer1.0.conv1": "separable"}, accuracy, share=0.5 - 0.02 * index,
        score=_SCORES[index - 1], best=_BEST[index - 1], predicted=_PREDICTED[index - 1],
        seconds=2.0, ask_seconds=0.1, cached=index == 4,
        error="the loss is nan <script>alert(1)</script>" if accuracy is None else None,
    )  # fmt: skip


@pytest.fixture(scope="session")
def evaluations() -> tuple[EvaluationRecord, ...]:
    """The first six of eight evaluations: the second failed, the fourth was known before."""
    return tuple(_evaluation(index) for index in range(1, 7))


@pytest.fixture(scope="session")
def embedding() -> EmbeddingRecord:
    points = ((0.0, 0.0), (1.0, 0.5), (-1.0, 0.5), (0.0, -1.0))
    return EmbeddingRecord(points, (0.72, 0.76, 0.74, 0.84), (0.48, 0.44, 0.42, 0.4), points[:2], 0.83)


@pytest.fixture(scope="session")
def correlation() -> CorrelationRecord:
    accuracies = ((0.5, 0.6, 0.7, 0.4), (0.6, 0.7, 0.65, 0.5), (0.7, 0.8, 0.75, 0.6))
    rank = ((1.0, 0.8, 0.8), (0.8, 1.0, 1.0), (0.8, 1.0, 1.0))
    names = ("shared weights", "shared weights and 50 steps", "from scratch")
    return CorrelationRecord(names, accuracies, (0.5, 0.4, 0.3, 0.2), rank, (1.2, 9.5, 184.0))


@pytest.fixture(scope="session")
def searched(
    sweep: Path, tmp_path_factory: pytest.TempPathFactory, evaluations: tuple[EvaluationRecord, ...],
    embedding: EmbeddingRecord, correlation: CorrelationRecord,
) -> Path:  # fmt: skip
    """A run with all that a search by scores adds to one, beside all that others have. Tests leave it unchanged."""
    folder = shutil.copytree(sweep / "0", tmp_path_factory.mktemp("searched") / "run")
    *records, result = [parse_record(line) for line in read_records(folder / "records.jsonl")]
    _rewrite(folder, [*records, correlation, *evaluations, embedding, result])
    return folder


@pytest.fixture(scope="session")
def rewrite() -> Callable[[Path, Sequence[Record]], None]:
    """Puts records in the place of those that the run in a folder has, which is made."""
    return _rewrite


def _rewrite(folder: Path, records: Sequence[Record]) -> None:
    sink = JsonlSink(folder / "records.jsonl", keep=0)
    for record in records:
        sink.write(record)
    sink.close()
