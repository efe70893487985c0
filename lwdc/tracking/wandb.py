"""Records in Weights & Biases: curves, a probability chart per site, searches by scores, sites, the files released."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwdc.errors import LwdcError
from lwdc.records import (
    CorrelationRecord,
    EmbeddingRecord,
    EpochRecord,
    EvaluationRecord,
    GateRecord,
    Measures,
    Record,
    Result,
)

if TYPE_CHECKING:
    import wandb

MODES = ("offline", "online")
STEP = "step"  # optimiser steps over all phases: the x axis of every curve
EVALUATION = "evaluation"  # counted from 1: the x axis of what architectures were found to be


class WandbSink:
    """One W&B run under ``directory``; offline it needs no account and no network.

    A resumed run passes the ``run_id`` of the first and replays its records. Offline, where W&B writes a file
    a process, the new file then holds the whole run. W&B is started by what is first asked of it, ``replay`` at the
    latest, so that a run that is refused before leaves nothing there.

    Raises:
        LwdcError: ``wandb`` is not installed, or ``mode`` is unknown; later, if W&B refuses to start.
    """

    def __init__(
        self,
        project: str,
        *,
        mode: str = "offline",
        directory: Path,
        name: str | None = None,
        group: str | None = None,
        config: Mapping[str, Any],
        tags: Sequence[str] = (),
        run_id: str | None = None,
    ) -> None:
        if mode not in MODES:
            raise LwdcError(f"tracking.mode is {mode!r}; it can be {' or '.join(MODES)}.")
        _import_wandb()
        self._given: dict[str, Any] = {
            "project": project,
            "mode": mode,
            "dir": directory,
            "name": name,
            "group": group,
            "config": dict(config),
            "tags": list(tags),
            "id": run_id,
            "resume": None if run_id is None or mode == "offline" else "allow",
        }
        self._axis = _StepAxis()
        self._embedding: EmbeddingRecord | None = None
        self._gates: list[tuple[int, tuple[GateRecord, ...]]] = []

    @functools.cached_property
    def _run(self) -> wandb.Run:
        module = _import_wandb()
        self._given["dir"].mkdir(parents=True, exist_ok=True)
        try:
            # Its own lines on the terminal, and its hold on stdout, would tear the progress bar.
            settings = module.Settings(silent=True, console="off")
            run: wandb.Run = module.init(**self._given, reinit="create_new", settings=settings)
        except (module.Error, OSError) as error:
            raise LwdcError(
                f"W&B could not start ({error}): log in with `wandb login`, or use tracking.mode=offline."
            ) from error
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)
        run.define_metric(EVALUATION, hidden=True)
        for name in _EVALUATED:  # each by its name: of two patterns that fit, W&B takes either
            run.define_metric(f"evaluations/{name}", step_metric=EVALUATION)
        return run

    @property
    def run_id(self) -> str:
        """What a resumed run passes to go on in this one."""
        return str(self._run.id)

    @property
    def location(self) -> str:
        """Where the run can be seen: its page, or offline the folder that ``wandb sync`` uploads."""
        return str(self._run.url or Path(self._run.dir).parent)

    def write(self, record: Record) -> None:
        if isinstance(record, EpochRecord):
            step = self._follow(record)
            self._run.log({STEP: step, **_curves(record)})
        elif isinstance(record, EvaluationRecord):
            self._run.log({EVALUATION: record.index, **_evaluated(record)})
        elif isinstance(record, EmbeddingRecord):
            self._embedding = record  # every one replaces the one before
        elif isinstance(record, CorrelationRecord):
            self._correlation(record)
        elif isinstance(record, Result):
            self._finish_charts()
            self._result(record)

    def replay(self, records: Sequence[Record]) -> None:
        """Take up a run where these records left it; online W&B has their curves already."""
        offline = self._run.offline
        for record in records:
            if isinstance(record, Result):
                continue
            if offline or isinstance(record, EmbeddingRecord):
                self.write(record)
            elif isinstance(record, EpochRecord):
                self._follow(record)

    def close(self) -> None:
        if "_run" in vars(self):  # it was started
            self._finish_charts()
            self._run.finish()

    def _follow(self, record: EpochRecord) -> int:
        """Where ``record`` lies on the axis; its gates are kept for the charts."""
        step = self._axis.place(record)
        if record.search is not None:
            self._gates.append((step, record.search.gates))
        return step

    def _finish_charts(self) -> None:
        """Those of which the last state counts."""
        self._finish_gates()
        self._finish_embedding()

    def _finish_embedding(self) -> None:
        """The space as the search has learned it: its architectures, and the path of its last descent."""
        import wandb

        record, self._embedding = self._embedding, None
        if record is None:
            return
        rows = [
            [*point, accuracy, share]
            for point, accuracy, share in zip(record.points, record.accuracies, record.shares, strict=True)
        ]
        points = wandb.Table(columns=["x", "y", "accuracy", "share"], data=rows)
        path = wandb.Table(columns=["step", "x", "y"], data=[[i, *point] for i, point in enumerate(record.path)])
        chart = wandb.plot.scatter(points, "x", "y", title="the space as the search has learned it", split_table=True)
        self._run.log({"embedding": points, "embedding_path": path, "embedding_chart": chart})

    def _correlation(self, record: CorrelationRecord) -> None:
        import wandb

        names = list(record.evaluators)
        ranks = [[name, *row, seconds] for name, row, seconds in zip(names, record.rank, record.seconds, strict=True)]
        rows = [list(row) for row in zip(record.shares, *record.accuracies, strict=True)]
        found = wandb.Table(columns=["share", *names], data=rows)
        chart = wandb.plot.scatter(
            found, names[0], names[-1], title=f"{names[-1]} against {names[0]}", split_table=True
        )
        self._run.log(
            {
                "rank_correlation": wandb.Table(columns=["evaluator", *names, "seconds"], data=ranks),
                "evaluators": found,
                "evaluators_chart": chart,
            }
        )

    def _finish_gates(self) -> None:
        """One chart per site: the probability of each candidate over the whole search."""
        import wandb

        if not self._gates:
            return
        steps = [step for step, _ in self._gates]
        charts = {}
        for number, gate in enumerate(self._gates[-1][1]):
            rows = [gates[number].probabilities for _, gates in self._gates]
            charts[f"probabilities/{gate.site}"] = wandb.plot.line_series(
                steps,
                [list(series) for series in zip(*rows, strict=True)],
                keys=list(gate.candidates),
                title=gate.site,
                xname=STEP,
                split_table=True,  # keeps the tables behind the charts out of their section
            )
        self._run.log(charts)
        self._gates = []

    def _result(self, result: Result) -> None:
        import wandb

        table = wandb.Table(columns=[*_SITE_COLUMNS], data=_site_rows(result))
        self._run.log({"sites": table})
        self._run.summary.update(_summary(result))
        for kind, files in _released(result).items():
            self._log_artifact(kind, files, result)

    def _log_artifact(self, kind: str, files: Sequence[Path], result: Result) -> None:
        """Runs of one network share its artifacts; by the aliases one finds the last, a budget's or a run's own."""
        import wandb

        artifact = wandb.Artifact(
            _permitted(f"{kind}-{result.name}"),
            type=kind,
            description=result.name,
            metadata={"cost": result.costs[0].name, "budget": result.costs[0].budget, **_shares(result)},
        )
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact, aliases=["latest", _asked(result), f"run-{self.run_id}"])


class _StepAxis:
    """Steps counted through all phases, from records that count within theirs."""

    def __init__(self) -> None:
        self._phase: str | None = None
        self._before = 0  # steps of the phases that are over
        self._last = 0

    def place(self, record: EpochRecord) -> int:
        if record.phase != self._phase:
            self._phase, self._before = record.phase, self._last
        self._last = self._before + record.step
        return self._last


_SITE_COLUMNS = [
    "site",
    "operator",
    "probability",
    "macs_before",
    "macs_after",
    "params_before",
    "params_after",
    "ms_before",
    "ms_after",
    "cheaper_but_slower",
]


def _import_wandb() -> Any:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise LwdcError(
            "tracking=wandb needs wandb, which is not installed: pip install wandb, or use tracking=none."
        ) from error
    return wandb


def _curves(record: EpochRecord) -> dict[str, float]:
    phase = record.phase
    curves = {
        f"{phase}/loss": record.loss,
        f"{phase}/train_accuracy": record.train_accuracy,
        f"{phase}/valid_accuracy": record.valid_accuracy,
        f"{phase}/learning_rate": record.learning_rate,
        f"{phase}/seconds": record.seconds,
    }
    search = record.search
    if search is None:
        return curves
    curves[f"{phase}/decided"] = search.decided
    for cost in search.costs:
        of = "" if cost is search.costs[0] else f"_{cost.name}"
        curves |= {f"{phase}/expected_cost{of}": cost.expected, f"{phase}/factor{of}": cost.factor}
        if cost.bound is not None:
            curves[f"{phase}/bound{of}"] = cost.bound
    for gate in search.gates:
        for candidate, probability in zip(gate.candidates, gate.probabilities, strict=True):
            curves[f"gates/{gate.site}/{candidate}"] = probability
    return curves


_EVALUATED = ("accuracy", "share", "score", "best", "predicted", "seconds", "ask_seconds", "failed")


def _evaluated(record: EvaluationRecord) -> dict[str, float]:
    """What is known of an architecture, by the names in ``_EVALUATED``."""
    known = dataclasses.asdict(record) | {"failed": int(record.accuracy is None)}
    return {f"evaluations/{name}": known[name] for name in _EVALUATED if known[name] is not None}


def _site_rows(result: Result) -> list[list[Any]]:
    return [[getattr(site, column) for column in _SITE_COLUMNS] for site in result.sites]


def _released(result: Result) -> dict[str, list[Path]]:
    """Files worth keeping, by what they are: the architecture, and the ONNX file with its model card."""
    folder = Path(result.folder)
    files = {"architecture": [folder / "architecture.json"]}
    files["model"] = [folder / export.file for export in result.exports if export.format == "onnx"]
    if result.int8 is not None:
        files["model"].append(folder / result.int8.int8.file)
    files = {kind: [file for file in of if file.is_file()] for kind, of in files.items()}
    if files["model"] and (folder / "model_card.md").is_file():
        files["model"].append(folder / "model_card.md")
    return {kind: of for kind, of in files.items() if of}


def _asked(result: Result) -> str:
    """The costs searched under as an alias: ``macs-0.33``, ``latency-5ms_size-2MiB``, ``macs-factor-1.5``."""
    pressures = (
        f"{cost.name}-{cost.budget}" if cost.budget is not None else f"{cost.name}-factor-{cost.factor}"
        for cost in result.costs
    )
    return _permitted("_".join(pressures))


def _permitted(text: str) -> str:
    """``text`` as a name or alias of an artifact: at most 128 letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "-", text.replace("%", "pct"), flags=re.ASCII)[:128]


def _shares(result: Result) -> dict[str, float]:
    """What is left of each size, after / before."""
    before, after = result.before, result.after
    sizes = {"macs": (before.macs, after.macs), "params": (before.params, after.params)}
    sizes["bytes"] = (before.bytes, after.bytes)
    return {f"share/{name}": new / old for name, (old, new) in sizes.items() if old}


def _summary(result: Result) -> dict[str, Any]:
    summary: dict[str, Any] = {"name": result.name, "seed": result.seed, "cost": result.costs[0].name}
    for cost in result.costs:
        summary |= {f"before/{cost.name}": cost.before, f"after/{cost.name}": cost.after}
        if cost.measured is not None:
            summary[f"measured/{cost.name}"] = cost.measured
    for split, accuracies in (("valid", result.valid), ("test", result.test)):
        figures = dataclasses.asdict(accuracies) | {"discretisation_gap": result.discretisation_gap(accuracies)}
        summary |= {f"{split}/{name}": figure for name, figure in figures.items() if figure is not None}
    if result.int8 is not None:
        figures = dataclasses.asdict(result.int8.int8)
        summary |= {f"int8/{name}": figures[name] for name in ("bytes", "valid", "test")}
        summary |= {f"int8/ms_batch_{batch}": value for batch, value in figures["latency_ms"].items()}
    summary |= _measures("before", result.before) | _measures("after", result.after) | _shares(result)
    summary |= {f"seconds/{phase}": seconds for phase, seconds in result.seconds.items()}
    return summary | {"warnings": list(result.warnings)}


def _measures(when: str, measures: Measures) -> dict[str, float]:
    latency = {f"{when}/ms_batch_{batch}": value for batch, value in measures.latency_ms.items()}
    latency |= {f"{when}/onnx_ms_batch_{batch}": value for batch, value in (measures.onnx_ms or {}).items()}
    return {
        f"{when}/macs": measures.macs,
        f"{when}/params": measures.params,
        f"{when}/bytes": measures.bytes,
    } | latency
