"""Records of a run: frozen plain data that strategies yield, sinks write and reports read."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class GateRecord:
    """Probabilities of the candidates at one site, in candidate order, summing to 1."""

    site: str
    candidates: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class CostState:
    """One cost at one moment of a search."""

    name: str
    expected: float  # of the whole network under the gates, as a share of the original's
    bound: float | None  # what a budget holds the cost to at this moment; None without a budget
    factor: float  # the weight of the cost in the objective at this moment; held, what it takes from the gates' logits


@dataclasses.dataclass(frozen=True)
class SearchState:
    """What a search adds to an epoch's record."""

    costs: tuple[CostState, ...]  # the one that was asked for first, then any others
    decided: float  # mean over sites of the largest probability: 1 = every gate has chosen
    gates: tuple[GateRecord, ...]


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """One epoch of one phase. Accuracies are top-1 shares in [0, 1]."""

    phase: str  # "baseline", "search" or "finetune"
    epoch: int  # counted from 1
    epochs: int
    step: int  # optimiser steps done in this phase
    loss: float  # mean over the epoch's training batches
    train_accuracy: float  # on augmented batches, while training
    valid_accuracy: float
    learning_rate: float
    seconds: float
    search: SearchState | None = None
    skipped: int = 0  # training batches left out because their loss or gradient was not finite


@dataclasses.dataclass(frozen=True)
class EvaluationRecord:
    """One architecture that a search by scores has evaluated."""

    index: int  # counted from 1
    evaluations: int  # how many there are to be
    choices: dict[str, str]  # site -> label of its operator
    accuracy: float | None  # on held-out training images, in [0, 1]; None where the evaluation failed
    share: float  # the cost, as a share of the original's
    score: float | None
    best: float | None  # the largest score so far within the bounds
    predicted: float | None  # the accuracy that was expected of it; None without a model
    seconds: float  # of the evaluation
    ask_seconds: float  # of proposing it: of its batch, divided evenly
    cached: bool = False  # known from an earlier search
    error: str | None = None  # why it failed


@dataclasses.dataclass(frozen=True)
class EmbeddingRecord:
    """What a search has learned of its space, as points in two dimensions."""

    points: tuple[tuple[float, float], ...]  # one an evaluated architecture
    accuracies: tuple[float, ...]
    shares: tuple[float, ...]
    path: tuple[tuple[float, float], ...]  # of the last descent that led to an evaluated architecture; may be empty
    explained: float  # share of the variance that two dimensions show


@dataclasses.dataclass(frozen=True)
class CorrelationRecord:
    """The same architectures under several evaluators, from cheap to dear, and how alike these rank them."""

    evaluators: tuple[str, ...]
    accuracies: tuple[tuple[float, ...], ...]  # (evaluators, architectures)
    shares: tuple[float, ...]  # (architectures,)
    rank: tuple[tuple[float, ...], ...]  # Spearman's correlation of every pair: (evaluators, evaluators)
    seconds: tuple[float, ...]  # of one evaluation, the mean


@dataclasses.dataclass(frozen=True)
class Note:
    """A sentence worth keeping: a phase that begins, a candidate dropped, a warning."""

    text: str
    level: str = "info"  # or "warning"


@dataclasses.dataclass(frozen=True)
class Measures:
    """Size and speed of one whole network."""

    macs: int  # multiply-accumulates of convolutions and matrix products, one image
    params: int
    bytes: int  # of the safetensors file
    latency_ms: dict[str, float]  # batch size (as text, for json) -> median milliseconds
    onnx_ms: dict[str, float] | None = None  # the same in ONNX Runtime on the CPU; None where there is no such file


def latencies(before: Measures, after: Measures) -> list[tuple[str, float, float]]:
    """Milliseconds before and after wherever both were timed, with a name: ``batch 1``, ``batch 1, ONNX Runtime``."""
    found = []
    for where, old, new in (
        ("", before.latency_ms, after.latency_ms),
        (", ONNX Runtime", before.onnx_ms or {}, after.onnx_ms or {}),
    ):
        found += [(f"batch {size}{where}", old[size], new[size]) for size in sorted(old.keys() & new.keys(), key=int)]
    return found


@dataclasses.dataclass(frozen=True)
class SiteResult:
    """What became of one site. Milliseconds are medians at batch 1; None where not measured."""

    site: str
    operator: str
    probability: float  # that the operator had when it was chosen: how decided the gate was
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    ms_before: float | None
    ms_after: float | None
    inheritance_error: float | None = None  # ||W - K|| / ||W|| with which the operator started from the trained weight

    @property
    def cheaper_but_slower(self) -> bool:
        """Fewer multiply-accumulates, yet more milliseconds on this machine (beyond 5% noise)."""
        if self.ms_before is None or self.ms_after is None:
            return False
        return self.macs_after < self.macs_before and self.ms_after > 1.05 * self.ms_before


@dataclasses.dataclass(frozen=True)
class Accuracies:
    """Top-1 accuracy of the four networks of a run, on one split; None where a phase did not run."""

    baseline: float | None
    supernet: float | None
    discretised: float | None
    finetuned: float | None


@dataclasses.dataclass(frozen=True)
class ExportRecord:
    """One exported file and how it compared with the module on fresh inputs."""

    format: str  # "safetensors", "torch_export" or "onnx"
    file: str  # relative to the run's folder
    bytes: int
    max_difference: float  # largest absolute difference of the outputs, over all batch sizes tried
    tolerance: float
    top1_agrees: bool  # wherever the module's margin exceeds the tolerance


@dataclasses.dataclass(frozen=True)
class FileMeasures:
    """One file, run in ONNX Runtime on the CPU. Accuracies are top-1 shares in [0, 1]."""

    file: str
    bytes: int
    valid: float
    test: float
    latency_ms: dict[str, float]  # batch size -> milliseconds


@dataclasses.dataclass(frozen=True)
class Int8Result:
    """The same network in float32 and in int8, measured in turns."""

    float32: FileMeasures
    int8: FileMeasures


@dataclasses.dataclass(frozen=True)
class CostResult:
    """What became of one cost that was searched under. Amounts are in ``unit``."""

    name: str
    unit: str
    factor: float | None
    budget: str | None  # as it was asked for
    bound: float | None
    before: float
    after: float  # exact where the cost is counted, else as the table predicts it
    measured: float | None  # the finished architecture measured as a whole; None where the cost is counted
    agreement: dict[str, float] | None  # of what the table predicts with measurements of whole networks


@dataclasses.dataclass(frozen=True)
class Result:
    """The last record of a run; ``summary.json`` holds it."""

    name: str  # backbone on data set
    seed: int
    costs: tuple[CostResult, ...]  # that were searched under, the first one asked for first
    before: Measures
    after: Measures
    valid: Accuracies
    test: Accuracies
    sites: tuple[SiteResult, ...]
    exports: tuple[ExportRecord, ...]
    warnings: tuple[str, ...]
    seconds: dict[str, float]  # phase -> wall time
    environment: dict[str, Any]
    folder: str
    int8: Int8Result | None = None
    weights: str | None = None  # whose the discretised network has: "supernet" or "baseline"; None: not known

    def discretisation_gap(self, accuracies: Accuracies) -> float | None:
        """Supernet minus discretised network, in accuracy; None unless it has the supernet's weights."""
        if self.weights != "supernet" or accuracies.supernet is None or accuracies.discretised is None:
            return None
        return accuracies.supernet - accuracies.discretised


Record = EpochRecord | EvaluationRecord | EmbeddingRecord | CorrelationRecord | Note | Result


def as_dict(record: Record) -> dict[str, Any]:
    """The record as json-ready data, with its kind under ``"record"`` and derived figures included."""
    data = {"record": type(record).__name__, **dataclasses.asdict(record)}
    if isinstance(record, Result):
        data["discretisation_gap"] = {
            "valid": record.discretisation_gap(record.valid),
            "test": record.discretisation_gap(record.test),
        }
    return data


# Of results.csv, which has a row for every run of a sweep.
COLUMNS = (
    "overrides", "seed", "status", "cost", "factor", "budget", "cost_before", "cost_after", "macs_before",
    "macs_after", "params_before", "params_after", "bytes_before", "bytes_after", "latency_ms_before",
    "latency_ms_after", "onnx_ms_before", "onnx_ms_after", "test_baseline", "test_supernet", "test_discretised",
    "test_finetuned", "valid_baseline", "valid_supernet", "valid_discretised", "valid_finetuned", "evaluations",
    "search_seconds", "folder",
)  # fmt: skip
