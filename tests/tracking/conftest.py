"""A short run's records, as realistic as a fake can be."""

import pytest

from lwdc.records import (
    Accuracies,
    CorrelationRecord,
    CostResult,
    CostState,
    EmbeddingRecord,
    EpochRecord,
    EvaluationRecord,
    ExportRecord,
    GateRecord,
    Measures,
    Note,
    Record,
    Result,
    SearchState,
    SiteResult,
)

CANDIDATES = ("original", "grouped_4", "separable", "low_rank_0.25")


def _gate(site: str, sharpness: float) -> GateRecord:
    rest = (1 - sharpness) / 3
    return GateRecord(site, CANDIDATES, (rest, sharpness, rest, rest))


def _epoch(phase: str, epoch: int, epochs: int, search: SearchState | None = None) -> EpochRecord:
    return EpochRecord(
        phase=phase,
        epoch=epoch,
        epochs=epochs,
        step=20 * epoch,
        loss=2.0 / epoch,
        train_accuracy=0.5 + 0.1 * epoch,
        valid_accuracy=0.6 + 0.1 * epoch,
        learning_rate=0.01,
        seconds=3.0 + epoch,
        search=search,
    )


def _search(epoch: int, epochs: int) -> EpochRecord:
    decided = 0.25 + 0.2 * epoch
    gates = tuple(_gate(f"layer{n}.0.conv1", decided) for n in (1, 2))
    state = SearchState(
        costs=(CostState("macs", 1.0 - 0.2 * epoch, 1.0 - 0.22 * epoch, 0.5 * epoch),),
        decided=decided,
        gates=gates,
    )
    return _epoch("search", epoch, epochs, state)


def _sites() -> tuple[SiteResult, ...]:
    names = [f"layer{stage}.{block}.conv{conv}" for stage, block in ((1, 0), (2, 0), (3, 0), (3, 1)) for conv in (1, 2)]
    rows = []
    for number, name in enumerate(names):
        width = 16 * 2 ** (number // 2)
        params, pixels = 9 * width * width, 64 // 2 ** (number // 2)
        divisor, operator = ((1, "original"), (4, "grouped_4"), (8, "separable"))[number % 3]
        rows.append(
            SiteResult(
                site=name,
                operator=operator,
                probability=0.97 - 0.05 * number,
                macs_before=params * pixels,
                macs_after=params * pixels // divisor,
                params_before=params,
                params_after=params // divisor,
                ms_before=0.1234 + 0.02 * number,
                ms_after=0.0871 if number != 4 else 0.4321,
            )
        )
    rows.append(
        SiteResult("layer4.1.downsample.conv", "low_rank_0.25", 0.5, 2_359_296, 600_000, 36_864, 9_500, None, None)
    )
    return tuple(rows)


@pytest.fixture
def result(tmp_path) -> Result:
    return Result(
        name="resnet8 on digits",
        seed=0,
        costs=(CostResult("macs", "MAC", 1.875, "0.33", 4_074_074, 12_345_678, 4_012_345, None, None),),
        before=Measures(12_345_678, 272_474, 1_101_234, {"1": 1.234, "64": 23.45}, {"1": 0.81, "64": 19.5}),
        after=Measures(4_012_345, 98_765, 412_345, {"64": 14.2, "1": 1.301}, {"1": 0.512, "64": 11.7}),
        valid=Accuracies(0.9889, 0.9833, 0.9722, 0.9861),
        test=Accuracies(0.9861, 0.9806, 0.9694, 0.9833),
        sites=_sites(),
        exports=(
            ExportRecord("safetensors", "model.safetensors", 412_345, 0.0, 1e-4, True),
            ExportRecord("torch_export", "model.pt2", 512_345, 1.2e-7, 1.3e-4, True),
            ExportRecord("onnx", "model.onnx", 455_000, 3.4e-6, 1.3e-4, True),
        ),
        warnings=("2 of 9 sites were left original: the budget was met without them.",),
        seconds={"baseline": 41.2, "search": 63.0, "finetune": 30.4},
        environment={"torch": "2.15.0", "threads": 2},
        folder=str(tmp_path),
        weights="supernet",
    )


@pytest.fixture
def records(result: Result) -> list[Record]:
    """Two epochs of each phase, a note between, the result last."""
    return [
        Note("baseline: resnet8 [78k] on digits"),
        *(_epoch("baseline", epoch, 2) for epoch in (1, 2)),
        Note("layer4.1.downsample.conv: grouped_8 does not divide 36 channels, dropped", level="warning"),
        *(_search(epoch, 2) for epoch in (1, 2)),
        *(_epoch("finetune", epoch, 2) for epoch in (1, 2)),
        result,
    ]


@pytest.fixture
def search_records() -> list[Record]:
    """What a search by scores yields of itself: evaluators compared, twelve evaluations, what it has learned."""
    rank = ((1.0, 0.8, 0.7), (0.8, 1.0, 0.9), (0.7, 0.9, 1.0))
    accuracies = ((0.5, 0.6, 0.7, 0.4), (0.6, 0.7, 0.65, 0.5), (0.7, 0.8, 0.75, 0.6))
    names = ("paths", "paths, 50 steps", "scratch")
    points = ((0.0, 0.0), (1.0, 0.5), (-1.0, 0.5))
    return [
        CorrelationRecord(names, accuracies, (0.5, 0.4, 0.3, 0.2), rank, (1.2, 9.5, 184.0)),
        *(_evaluation(index) for index in range(1, 13)),
        EmbeddingRecord(points, (0.72, 0.76, 0.74), (0.48, 0.44, 0.42), (), 0.8),
        EmbeddingRecord(points, (0.72, 0.76, 0.74), (0.48, 0.44, 0.42), points[:2], 0.83),
    ]


def _evaluation(index: int) -> EvaluationRecord:
    """Every fifth fails; every sixth is the best so far."""
    failed = index % 5 == 0
    return EvaluationRecord(
        index=index,
        evaluations=12,
        choices={"layer1.0.conv1": "separable", "layer2.0.conv1": "original"},
        accuracy=None if failed else 0.7 + 0.01 * (index // 6) - 0.001 * (index % 6),
        share=0.5 - 0.01 * index,
        score=None if failed else 0.9 + 0.01 * (index // 6) - 0.001 * (index % 6),
        best=(0.899, 0.91, 0.92)[index // 6],
        predicted=None if index < 3 else 0.705,
        seconds=2.0,
        ask_seconds=0.25,
        cached=index == 4,
        error="the loss is nan" if failed else None,
    )
