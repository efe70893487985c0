"""The command line, which makes a run of a configuration."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.resources
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from lightning_fabric.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

import lwdc
from lwdc.composing import checked
from lwdc.errors import CheckpointError, DataError, LwdcError, Refused, unknown_name
from lwdc.export import gather, push
from lwdc.help import COMMANDS, config_groups, help_of, overview
from lwdc.pipeline import (
    BackboneSettings,
    Compute,
    CostSettings,
    FrontSettings,
    Interrupted,
    Settings,
    check_folder,
    compress,
)
from lwdc.pipeline.inspection import print_plan
from lwdc.pipeline.launching import launch
from lwdc.pipeline.packages import evaluate_run, export_run, settings_of
from lwdc.pipeline.ranks import Elsewhere
from lwdc.pipeline.run import CHECKPOINT, RECORDS
from lwdc.pipeline.sweep import add_row, check_searched, filled_row, shared_baseline, shared_search
from lwdc.records import Result
from lwdc.sweepers import register
from lwdc.sweepers.jobs import ONE_BY_ONE, SIGNALS
from lwdc.targets import check_targets
from lwdc.tracking import Sink, TerminalSink, parse_record, read_records
from lwdc.training import Recipe

_UNTIL = {"compress": "export", "train": "baseline", "search": "search", "finetune": "export"}
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


def main() -> None:
    """Entry point of the command ``lwdc``."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return
    if arguments[0] == "--version":
        print(f"lwdc {lwdc.__version__}")
        return
    try:
        sys.exit(_run(arguments[0], arguments[1:]))
    except LwdcError as error:
        sys.exit(_report(error))
    except Refused as refused:
        sys.exit(_report(refused.error))
    except KeyboardInterrupt:
        print("\nstopped at once; what the last checkpoint holds is safe", file=sys.stderr)
        sys.exit(130)


def _run(command: str, overrides: list[str]) -> int:
    if command not in COMMANDS:
        raise LwdcError(unknown_name("command", command, COMMANDS))
    if "-h" in overrides or "--help" in overrides:
        print(help_of(command))
        return 0
    if command in _WITHOUT_HYDRA:
        _WITHOUT_HYDRA[command](overrides)
        return 0
    _check_groups(overrides)
    _check_extras(overrides)
    if {"-m", "--multirun"} & set(overrides) and TorchElasticEnvironment.detect():
        raise LwdcError("a sweep starts the processes of its runs itself: call lwdc without torchrun.")
    trusted, typed = _without_trust(overrides)
    overrides = _in_folder(command, _with_resumed(command, typed))
    register()
    # argparse takes positional arguments in one run only, so flags go last.
    settings = [o for o in overrides if "=" in o and not o.startswith("-")]
    flags = [o for o in overrides if o not in settings]
    sys.argv = ["lwdc", *settings, f"hydra.job.name={command}", *flags]
    task = functools.partial(_task, command, trusted)
    with checked(typed, trusted):
        hydra.main(version_base="1.3", config_path="pkg://lwdc.conf", config_name="config")(task)()
    return 0


def _without_trust(overrides: list[str]) -> tuple[list[str], list[str]]:
    """What ``trust=`` names, which counts nowhere else than on the command line, and the other overrides."""
    given = [o.partition("=")[2].strip("[]\"'").split(",") for o in overrides if _key(o) == "trust"]
    names = [name.strip() for part in given for name in part]
    if wrong := [name for name in names if not re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", name)]:
        raise LwdcError(f"trust={wrong[0]} names no package, class or function; write trust=my_package.MyData.")
    return names, [o for o in overrides if _key(o) != "trust"]


_trusted: list[str] = []  # what the command line named by trust=, in whatever process the run is


def _task(command: str, trusted: Sequence[str], config: DictConfig) -> dict[str, Any] | None:
    """One run; in a sweep also in a process of a launcher, and then its row."""
    _trusted[:] = trusted
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if sweep and HydraConfig.get().runtime.choices["hydra/launcher"] != ONE_BY_ONE:
            return _side_by_side(command, config)
        return _in_sweep(command, config) if sweep else _ACTIONS[command](command, config)
    except LwdcError as error:
        raise Refused(error) from error


def _write_page(arguments: list[str]) -> None:
    """``lwdc report``: folders, and where the page goes; without that into the folder, if it is one."""
    from lwdc.report import read_runs, write_images, write_report  # plotly is slow to import

    folders = [Path(a) for a in arguments if not a.startswith("out=") and a != "--figures"]
    if not folders:
        raise LwdcError("name the folders of runs or sweeps: lwdc report outputs/compress/<run> ...")
    given = _given("out", arguments)
    out = Path(given) if given else (folders[0] if len(folders) == 1 else Path()) / "report.html"
    out = out / "report.html" if out.is_dir() else out
    runs = read_runs(folders)
    try:
        write_report(runs, out)
        print(f"{len(runs)} run(s): {out}")
        for image in write_images(runs, out.with_name(f"{out.stem}_figures")) if "--figures" in arguments else ():
            print(image)
    except OSError as error:
        raise LwdcError(
            f"no report can be written to {out}: {error.strerror}. Name another place by out=FILE."
        ) from error


def _push(arguments: list[str]) -> None:
    """``lwdc push``: the files of a run to a repository of the hub, or with ``out`` to a folder."""
    known = ("run", "repo", "private", "out")
    for argument in arguments:
        if "=" not in argument or _key(argument) not in known:
            raise LwdcError(unknown_name("setting of push", _key(argument), known))
    run, repo, private, out = (_given(key, arguments) for key in known)
    if run is None or (repo is None and out is None):
        raise LwdcError("name the run's folder and the repository: lwdc push run=outputs/compress/<run> repo=user/name")
    if private not in (None, "true", "false"):
        raise LwdcError(f"private is {private!r}; it can be true or false.")
    if out is not None:
        if private is not None:
            raise LwdcError("private= is for the hub: leave it out where out= names a folder.")
        for file in gather(Path(run), Path(out), repo=repo):
            print(file)
    elif repo is not None:
        print(push(Path(run), repo, private=private != "false"))


_WITHOUT_HYDRA: dict[str, Callable[[list[str]], None]] = {"report": _write_page, "push": _push}


def _unless(given: Any, otherwise: Any) -> Any:
    """``otherwise``, unless something is given: then nothing."""
    return None if given is not None else otherwise


OmegaConf.register_new_resolver("unless", _unless, replace=True)  # for whoever composes the configs, too


def _report(error: LwdcError) -> int:
    if os.environ.get("LWDC_DEBUG") == "1":
        raise error
    if isinstance(error, Elsewhere):
        return 0 if _rank() else 2
    if isinstance(error, _Told):
        return 128 + error.signal_number
    if _rank() and not isinstance(error, DataError):  # which may be this machine's: all other errors are every rank's
        return 0  # the first rank tells of them, and its code is the run's: another's would have it stopped
    said = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))  # of names in a stranger's file
    print(f"error: {said}", file=sys.stderr)
    return 128 + error.signal_number if isinstance(error, Interrupted) else 2


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
        raise Interrupted(
            f"{error}; or with the whole sweep, by the same command and hydra.sweep.dir={hydra_config.sweep.dir}",
            error.signal_number,
        ) from error
    except LwdcError as error:
        _report(error)
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
    overrides = [o for o in HydraConfig.get().overrides.task if _key(o) not in ("resume", "run")]
    data = {**_plain(config), "overrides": overrides}
    sweep_goes_on = HydraConfig.get().mode == RunMode.MULTIRUN and (folder / CHECKPOINT).exists()
    resume = bool(config.resume or (command == "finetune" and config.run) or sweep_goes_on)
    settings = _with_shared(make_settings(config, _trusted), folder, data, resume)
    if settings.compute.needs_launch():
        return _launched(command, config, settings, folder, resume)
    sinks = [] if _rank() else _sinks(config, folder, data)
    ignore = (*_NOT_COMPARED, *(("finetune",) if command == "finetune" else ()))
    return compress(settings, folder, data, sinks, until=_UNTIL[command], resume=resume, ignore=ignore)


def _sinks(config: DictConfig, folder: Path, data: dict[str, Any]) -> list[Sink]:
    sinks: list[Sink] = [TerminalSink()]
    if config.tracking:
        run_id = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=6).hexdigest()
        if HydraConfig.get().mode == RunMode.RUN:  # W&B's agent names its runs, and may find them again only by that
            run_id = os.environ.get("WANDB_RUN_ID") or run_id
        sink = _build(config.tracking, "tracking")
        sinks.append(sink(directory=folder, config=data, run_id=run_id, **_sweep_as_group(config)))
    return sinks


def _with_shared(settings: Settings, folder: Path, data: dict[str, Any], resume: bool) -> Settings:
    """The settings, in a sweep with what an earlier run of it has trained."""
    if settings.searched is not None:
        if not resume:
            check_searched(settings.searched, data)
    elif HydraConfig.get().mode == RunMode.MULTIRUN:
        if settings.front is not None:
            settings = dataclasses.replace(settings, searched=shared_search(folder.parent, folder, data))
        if settings.baseline is None and not resume:
            settings = dataclasses.replace(settings, baseline=shared_baseline(folder.parent, folder, data))
    return settings


def _launched(command: str, config: DictConfig, settings: Settings, folder: Path, resume: bool) -> Result | None:
    """One run in as many processes as it asks for, each of which calls this command again."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else DDP warns of what we want it to do
    own = [o for o in HydraConfig.get().overrides.task if _key(o) not in ("resume", "run", "baseline", "searched")]
    given = {"hydra.run.dir": folder, "baseline": settings.baseline, "searched": settings.searched}
    if config.tracking and (group := _sweep_as_group(config)):
        given["tracking.group"] = Path(group["group"])
    if resume:
        given["run" if command == "finetune" else "resume"] = folder
    own += [f"{key}={_quoted(path)}" for key, path in given.items() if path is not None]
    own += [f"trust={name}" for name in _trusted]
    code = launch(settings.compute.devices, "lwdc.cli", [command, *own, "hydra.output_subdir=null"])
    if code - 128 in SIGNALS:
        raise _Told(f"stopped; everything is saved. Go on with: resume={folder}", code - 128)
    if code:
        raise Elsewhere(f"the processes of this run ended with exit code {code}; what they said stands above.")
    found = reversed([parse_record(line) for line in read_records(folder / RECORDS)])
    return next((record for record in found if isinstance(record, Result)), None)


class _Told(Interrupted):
    """An interruption that the processes of the run have told of."""


def _rank() -> int:
    """Of this process among those of its run, as whoever started it says."""
    return int(getattr(rank_zero_only, "rank", 0))


def _sweep_as_group(config: DictConfig) -> dict[str, str]:
    """Runs of a sweep are tracked as one group, by its folder's name, unless ``tracking.group`` names another."""
    if HydraConfig.get().mode != RunMode.MULTIRUN or config.tracking.get("group", "none to give") is not None:
        return {}
    return {"group": Path(HydraConfig.get().sweep.dir).resolve().name}


def _inspect(command: str, config: DictConfig) -> None:
    del command
    size = config.inspect.input_size
    given = None if size is None else (tuple(size), config.inspect.num_classes or 1000)
    print_plan(make_settings(config, _trusted), Console(), given)


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


def make_settings(config: DictConfig, trusted: Sequence[str] = ()) -> Settings:
    """The objects that a configuration describes. What it may have built is said by ``check_targets``."""
    check_targets(_plain(config), trusted)
    return Settings(
        backbone=_checked(BackboneSettings, "backbone", **_plain(config.backbone)),
        data=_build(config.data, "data"),
        cost=_cost(config.cost, "cost"),
        train=_recipe(config, "train"),
        search=_recipe(config, "strategy"),
        finetune=_recipe(config, "finetune"),
        logits_optim=_build(config.strategy.logits_optim, "strategy.logits_optim"),
        prior=config.strategy.prior,
        decide=config.strategy.decide,
        decide_from=config.strategy.decide_from,
        front=_front(config.strategy),
        space=_build(config.space, "space"),
        gate=_build(config.gate, "gate"),
        mixing=config.strategy.mixing,
        inherit=config.strategy.inherit,
        from_scratch=config.finetune.from_scratch,
        recalibrate_batches=config.strategy.recalibrate_batches,
        refit_images=config.strategy.refit_images,
        compute=_checked(Compute, "compute", **_plain(config.compute)),
        formats=list(config.export.formats),
        int8=config.export.int8,
        licence=config.export.licence,
        latency_batches=list(config.latency_batches),
        seed=config.seed,
        deterministic=config.deterministic,
        baseline=None if config.baseline is None else Path(str(config.baseline)),
        searched=None if config.searched is None else Path(str(config.searched)),
        checkpoint_minutes=config.checkpoint.every_minutes,
    )  # fmt: skip


def _cost(node: DictConfig, key: str) -> CostSettings:
    """A cost, with those beside it. What its model takes may stand beside the model, as ``cost.runtime`` does."""
    also = []
    for name, given in (node.get("also") or {}).items():
        known = config_groups()["cost"]
        if name not in known:
            raise LwdcError(f"{key}.also: " + unknown_name("cost", str(name), known))
        if not isinstance(given, DictConfig) or "also" in given:
            raise LwdcError(
                f"{key}.also.{name} takes the settings of one cost, like +cost.also.{name}.budget=50%; found {given}."
            )
        folder = importlib.resources.files("lwdc.conf") / "cost"
        composed = OmegaConf.merge(
            *(OmegaConf.create((folder / f"{n}.yaml").read_text()) for n in ("macs", name)), given
        )
        assert isinstance(composed, DictConfig)
        composed.pop("defaults", None)
        also.append(_cost(composed, f"{key}.also.{name}"))
    rest = {k: v for k, v in _plain(node).items() if k not in ("model", "shape", "also") and k not in node.model}
    return _checked(
        CostSettings, key, model=_build(node.model, f"{key}.model"), shape=_build(node.shape, f"{key}.shape"),
        also=tuple(also), **rest,
    )  # fmt: skip


def _front(strategy: DictConfig) -> FrontSettings | None:
    if strategy.get("front") is None:
        return None
    return _checked(FrontSettings, "strategy.front", **_plain(strategy.front))


def _recipe(config: DictConfig, group: str) -> Recipe:
    node = config[group]
    return _checked(
        Recipe, group, epochs=node.epochs, batch_size=node.batch_size,
        optim=functools.partial(_build(config.optim, "optim"), lr=node.lr),
        schedule=_build(node.lr_scheduler, f"{group}.lr_scheduler") if node.lr_scheduler else _plain(node.schedule),
        objective=_build(node.objective, f"{group}.objective"),
        clip_norm=node.clip_norm,
        # Not in runs of earlier versions, which are evaluated and exported again.
        accumulate=node.get("accumulate", 1), ema=node.get("ema"), mixup=dict(node.get("mixup") or {}),
        nonfinite=node.get("nonfinite", "stop"),
        **({"starts_optim": _build(node.starts_optim, f"{group}.starts_optim")} if "starts_optim" in node else {}),
    )  # fmt: skip


def _build(node: DictConfig, key: str) -> Any:
    """The object that a ``_target_`` names. Its own errors pass; others say which key is at fault."""
    try:
        return instantiate(_plain(node), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, LwdcError):
            cause = cause.__cause__
        raise cause or LwdcError(f"{key}: {str(error).splitlines()[0]}") from error


def _checked(kind: type, key: str, **arguments: Any) -> Any:
    try:
        return kind(**arguments)
    except TypeError as error:
        raise LwdcError(f"{key}: {error}") from error


def _plain(node: Any) -> Any:
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise LwdcError(f"the configuration cannot be resolved: {error}") from error


def _named_run(config: DictConfig) -> Path:
    if config.run is None:
        raise LwdcError("name the run's folder: run=outputs/compress/...")
    return Path(str(config.run))


def _saved(folder: Path, config: DictConfig) -> DictConfig:
    """The configuration that the run was started with, under what is given now."""
    saved = OmegaConf.create(settings_of(folder))
    assert isinstance(saved, DictConfig)
    saved.pop("overrides", None)
    for key in config:  # settings that came after the run was made
        if key not in saved:
            saved[key] = config[key]
    saved.export = OmegaConf.merge(config.export, saved.export)
    for key in {_key(override) for override in HydraConfig.get().overrides.task} - {"run"}:
        OmegaConf.update(saved, key, OmegaConf.select(config, key), merge=False, force_add=True)
    return saved


def _with_resumed(command: str, overrides: list[str]) -> list[str]:
    """For resume=FOLDER: the overrides that the run was started with, then those given now, in its folder."""
    key = "run" if command == "finetune" else "resume"
    folder = _given(key, overrides)
    if command == "finetune" and folder is None:
        raise LwdcError("name the run's folder: lwdc finetune run=outputs/search/...")
    if folder is None or command not in _UNTIL:
        return overrides
    if command != "finetune" and folder == "auto":
        overrides = [o for o in overrides if _key(o) != key]
        folder = _given("hydra.run.dir", overrides)
        if folder is None:
            raise LwdcError(
                "resume=auto goes on with the run in hydra.run.dir, if there is one: name that folder, too."
            )
        if not (Path(folder) / CHECKPOINT).exists():
            return overrides
        overrides = [*overrides, f"resume={_quoted(folder)}"]
    now = {_key(o) for o in overrides}
    # From the checkpoint: `.hydra` is written anew before a resumed run can be refused.
    kept = settings_of(Path(folder)).get("overrides", [])
    for override in kept if isinstance(kept, list) else [kept]:
        sound = isinstance(override, str) and _KEPT.fullmatch(override)
        if not sound or _key(override).startswith(("hydra", "trust")):
            raise CheckpointError(
                f"the run in {folder} says that it was started with {override!r:.200}, which lwdc never keeps: "
                "do not trust it."
            )
    before = [o for o in kept if _key(o) not in now]
    return [*before, *overrides, f"hydra.run.dir={_quoted(folder)}", "hydra.output_subdir=null"]


def _quoted(path: Path | str) -> str:
    quoted = str(path).replace("'", "\\'")
    return f"'{quoted}'"


_KEPT = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*(=.*)?", re.DOTALL)  # an override; not a flag


def _in_folder(command: str, overrides: list[str]) -> list[str]:
    """The overrides, once the folder to write to is checked: Hydra would make it without a word of ours."""
    if command not in _UNTIL or _rank():  # leaves nothing behind but in the folder of a run, which is the first rank's
        own = [o for o in overrides if _key(o) not in ("hydra.run.dir", "hydra.output_subdir")]
        return [*own, "hydra.run.dir=.", "hydra.output_subdir=null"]
    folder = _given("hydra.run.dir", overrides) or _given("hydra.sweep.dir", overrides) or "outputs"
    check_folder(Path(folder), resume="hydra.output_subdir=null" in overrides)
    return overrides


def _given(key: str, overrides: list[str]) -> str | None:
    """The last value of ``key=value``, without quotes; None if it is not there."""
    values = [o.partition("=")[2].strip("\"'") for o in overrides if _key(o) == key]
    return values[-1] if values and values[-1] not in ("", "null") else None


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


_EXTRAS = {  # choices of Hydra that need more packages -> module, name and extra of ours
    "hydra/launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "hydra-joblib-launcher", "launchers"),
    "hydra/launcher=submitit_local": ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher", "launchers"),
    "hydra/launcher=submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher", "launchers"),
    "hydra/sweeper=optuna": ("optuna", "optuna", "sweeps"),
}


def _check_extras(overrides: list[str]) -> None:
    for choice in set(overrides) & set(_EXTRAS):
        module, name, extra = _EXTRAS[choice]
        if not _installed(module):
            raise LwdcError(f"{choice} needs {name}, which is not installed: pip install 'lwdc[{extra}]'.")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that the module is in
        return False


def _check_groups(overrides: list[str]) -> None:
    """A misspelt choice gets the nearest ones before Hydra sees it."""
    groups = config_groups()
    for override in overrides:
        match = re.fullmatch(r"\+?(\w+)=([\w,.-]+)", override)
        if match and match[1] in groups:
            for choice in match[2].split(","):
                if choice not in groups[match[1]] and choice != "null":
                    raise LwdcError(unknown_name(match[1], choice, groups[match[1]]))


if __name__ == "__main__":
    from lwdc import cli

    cli.main()  # by the name that a launcher's processes import
