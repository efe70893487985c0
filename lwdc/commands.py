"""Commands: what each of them does with a composed configuration, in a sweep or by itself."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lwdc.configuring import build, make_settings, plain
from lwdc.errors import CheckpointError, Elsewhere, Interrupted, LwdcError, Told
from lwdc.folders import CHECKPOINT, RECORDS, typed
from lwdc.kinds import check_kind
from lwdc.overrides import UNTIL, key_of, quoted
from lwdc.pipeline import Settings, compress
from lwdc.pipeline.inspection import print_plan
from lwdc.pipeline.launching import launch
from lwdc.pipeline.packages import evaluate_run, export_run, settings_of
from lwdc.pipeline.sweep import add_row, check_searched, filled_row, shared_baseline, shared_search
from lwdc.records import Result
from lwdc.sweepers.jobs import ONE_BY_ONE, SIGNALS
from lwdc.telling import rank_here, tell
from lwdc.tracking import Sink, TerminalSink, parse_record, read_records

_NOT_COMPARED = (
    "resume",
    "run",
    "tracking",
    "checkpoint",
    "compute.accelerator",
    "compute.threads",
    "compute.devices",
    "compute.nodes",
    "compute.strategy",
    "compute.timeout_s",
    "compute.checkpointing",
    "cost.cache",
    "cost.strict",
    "cost.model.cache",
    "cost.model.strict",
    "cost.also.latency.cache",
    "cost.also.latency.strict",
    "export",
    "latency_batches",
    "inspect",
    "overrides",
    # What happens where a run had stopped, and how its data is read.
    "data.workers",
    "data.check_all",
    "data.unreadable",
    "train.nonfinite",
    "strategy.nonfinite",
    "finetune.nonfinite",
)


_trusted: list[str] = []  # what the command line named by trust=, in whatever process the run is


_elsewhere: list[str] = []  # what else it said that a process of the same run needs


def perform(
    command: str, trusted: Sequence[str], elsewhere: Sequence[str], config: DictConfig
) -> dict[str, Any] | None:
    """One run; in a sweep also in a process of a launcher, and then its row."""
    _trusted[:], _elsewhere[:] = trusted, elsewhere
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return _ACTIONS[command](command, config)
    if HydraConfig.get().runtime.choices["hydra/launcher"] != ONE_BY_ONE:
        return _side_by_side(command, config)
    return _in_sweep(command, config)


def _in_sweep(command: str, config: DictConfig) -> dict[str, Any]:
    """One run of a sweep: its row is written whatever becomes of it, and the others go on.

    In the folder of an earlier sweep what is done is kept, and what was interrupted goes on.
    """
    hydra_config = HydraConfig.get()
    add = functools.partial(add_row, Path(hydra_config.sweep.dir) / "results.csv")
    row = _bare_row(config)
    try:
        row = filled_row(row, "done", _ACTIONS[command](command, config))
    except Interrupted as error:
        add(filled_row(row, "interrupted"))
        sweep = typed("hydra.sweep.dir", hydra_config.sweep.dir)
        raise Interrupted(
            f"{error}; or with the whole sweep, by the same command and {sweep}", error.signal_number
        ) from error
    except LwdcError as error:
        tell(error)
        row = filled_row(row, f"failed: {error}", own=not isinstance(error, CheckpointError))
    except Exception as error:
        add(filled_row(row, f"failed: {type(error).__name__}: {error}"))
        raise
    add(row)
    return row


def _bare_row(config: DictConfig) -> dict[str, Any]:
    return {
        "overrides": " ".join(HydraConfig.get().overrides.task),
        "seed": config.seed,
        "folder": HydraConfig.get().runtime.output_dir,
    }


_stopped_by: list[int] = []  # signals that came between the runs of a process that a launcher has for several


def _side_by_side(command: str, config: DictConfig) -> dict[str, Any]:
    """One run of a sweep in a process of a launcher: what is raised there is not heard, so an interrupt is answered.

    joblib's processes share one terminal, where their progress would be torn: what they say goes into a file.
    """
    row = _bare_row(config)
    if _stopped_by:
        return {**row, "status": "interrupted", "signal": _stopped_by[0]}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with contextlib.ExitStack() as stack:
            if HydraConfig.get().runtime.choices["hydra/launcher"] == "joblib":
                log = (Path(row["folder"]) / "output.log").open("a", buffering=1)
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(log)))
                stack.enter_context(contextlib.redirect_stderr(log))
            row = _in_sweep(command, config)
    except Interrupted as error:
        _stopped_by.append(error.signal_number)
        row |= {"status": "interrupted", "signal": error.signal_number}
    finally:
        for number in SIGNALS:
            signal.signal(number, lambda given, frame: _stopped_by.append(given))
    print(f"{row['folder']}: {row['status']}", flush=True)
    return row


def _compress(command: str, config: DictConfig) -> Any:
    folder = Path(HydraConfig.get().runtime.output_dir)
    overrides = [o for o in HydraConfig.get().overrides.task if key_of(o) not in ("resume", "run")]
    data = {**plain(config), "overrides": overrides}
    sweep_goes_on = HydraConfig.get().mode == RunMode.MULTIRUN and (folder / CHECKPOINT).exists()
    resume = bool(config.resume or (command == "finetune" and config.run) or sweep_goes_on)
    settings = _with_shared(make_settings(config, _trusted), folder, data, resume)
    if settings.compute.needs_launch():
        return _launched(command, config, settings, folder, resume)
    sinks = [] if rank_here() else _sinks(config, folder, data)
    ignore = (*_NOT_COMPARED, *(("finetune",) if command == "finetune" else ()))
    return compress(settings, folder, data, sinks, until=UNTIL[command], resume=resume, ignore=ignore)


def _sinks(config: DictConfig, folder: Path, data: dict[str, Any]) -> list[Sink]:
    sinks: list[Sink] = [TerminalSink()]
    if config.tracking:
        run_id = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=6).hexdigest()
        if HydraConfig.get().mode == RunMode.RUN:  # W&B's agent names its runs, and may find them again only by that
            run_id = os.environ.get("WANDB_RUN_ID") or run_id
        sink = build(config.tracking, "tracking")
        sinks.append(sink(directory=folder, config=data, run_id=run_id, **_sweep_as_group(config)))
    return sinks


def _with_shared(settings: Settings, folder: Path, data: dict[str, Any], resume: bool) -> Settings:
    """The settings, in a sweep with what an earlier run of it has trained."""
    if settings.searched is not None:
        if not resume:
            check_searched(settings.searched, data)
    elif HydraConfig.get().mode == RunMode.MULTIRUN:
        if settings.front is not None or settings.scores is not None:
            settings = dataclasses.replace(settings, searched=shared_search(folder.parent, folder, data))
        if settings.baseline is None and not resume:
            settings = dataclasses.replace(settings, baseline=shared_baseline(folder.parent, folder, data))
    return settings


def _launched(command: str, config: DictConfig, settings: Settings, folder: Path, resume: bool) -> Result | None:
    """One run in as many processes as it asks for, each of which calls this command again."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else DDP warns of what we want it to do
    own = [o for o in HydraConfig.get().overrides.task if key_of(o) not in ("resume", "run", "baseline", "searched")]
    given = {"hydra.run.dir": folder, "baseline": settings.baseline, "searched": settings.searched}
    if config.tracking and (group := _sweep_as_group(config)):
        given["tracking.group"] = Path(group["group"])
    if resume:
        given["run" if command == "finetune" else "resume"] = folder
    own += [f"{key}={quoted(path)}" for key, path in given.items() if path is not None]
    code = launch(settings.compute.devices, "lwdc.cli", [command, *own, *_elsewhere, "hydra.output_subdir=null"])
    if code - 128 in SIGNALS:
        raise Told(f"stopped; everything is saved. Go on with: {typed('resume', folder)}", code - 128)
    if code:
        raise Elsewhere(f"the processes of this run ended with exit code {code}; what they said stands above.")
    found = reversed([parse_record(line) for line in read_records(folder / RECORDS)])
    return next((record for record in found if isinstance(record, Result)), None)


def _sweep_as_group(config: DictConfig) -> dict[str, str]:
    """Runs of a sweep are tracked as one group, by its folder's name, unless ``tracking.group`` names another."""
    if HydraConfig.get().mode != RunMode.MULTIRUN or config.tracking.get("group", "none to give") is not None:
        return {}
    return {"group": Path(HydraConfig.get().sweep.dir).resolve().name}


def _inspect(command: str, config: DictConfig) -> None:
    del command
    given = plain(config)["inspect"]
    size = check_kind(given["input_size"], Sequence[int] | None, "inspect.input_size")
    classes = check_kind(given["num_classes"], int | None, "inspect.num_classes")
    if size is None and classes is not None:
        raise LwdcError(
            "inspect.num_classes says nothing without inspect.input_size, like [3,224,224]: the data have classes of "
            "their own. Give both, or neither."
        )
    classes = 1000 if classes is None else classes
    if size is not None and min([*size, classes]) < 1:
        raise LwdcError(f"inspect.input_size and inspect.num_classes are from 1 on, found {size} and {classes}.")
    print_plan(make_settings(config, _trusted), Console(), None if size is None else (tuple(size), classes))


def _evaluate(command: str, config: DictConfig) -> None:
    del command
    folder = _named_run(config)
    figures = evaluate_run(folder, make_settings(_saved(folder, config), _trusted))
    for name, value in figures.items():
        print(f"{name}: {value}")


def _export(command: str, config: DictConfig) -> None:
    del command
    folder = _named_run(config)
    exports, int8 = export_run(folder, make_settings(_saved(folder, config), _trusted))
    for record in exports:
        print(f"{folder / record.file}: {record.bytes:,} bytes, differs by at most {record.max_difference:.1e}")
    if int8 is not None:
        found = int8.int8
        print(f"{folder / found.file}: {found.bytes:,} bytes, test accuracy {found.test:.1%} ({int8.float32.test:.1%})")


_ACTIONS: dict[str, Callable[[str, DictConfig], Any]] = {
    "compress": _compress,
    "train": _compress,
    "search": _compress,
    "finetune": _compress,
    "inspect": _inspect,
    "evaluate": _evaluate,
    "export": _export,
}


def _named_run(config: DictConfig) -> Path:
    if config.run is None:
        raise LwdcError("name the run's folder: run=outputs/compress/...")
    return Path(str(config.run))


def _saved(folder: Path, config: DictConfig) -> DictConfig:
    """The configuration that the run was started with, under what is given now."""
    saved = OmegaConf.create(settings_of(folder))
    assert isinstance(saved, DictConfig)
    for key in set(saved) - set(config):  # helpers of an experiment, in the place of which their values stand by now
        saved.pop(key)
    for key in config:  # settings that came after the run was made
        if key not in saved:
            saved[key] = config[key]
    saved.export = OmegaConf.merge(config.export, saved.export)
    for key in {key_of(override) for override in HydraConfig.get().overrides.task} - {"run"}:
        OmegaConf.update(saved, key, OmegaConf.select(config, key), merge=False, force_add=True)
    return saved
