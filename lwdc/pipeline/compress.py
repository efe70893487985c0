"""The whole line: baseline, search, discretise, fine-tune, export, measure. Read it from top to bottom."""

import contextlib
import copy
import dataclasses
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from lwdc.architecture import Architecture
from lwdc.costs import CostTable
from lwdc.errors import CheckpointError, DataError, Interrupted, WriteError
from lwdc.export import export_all, write_card
from lwdc.files import read_json, replacing, write_json
from lwdc.folders import check_folder, typed
from lwdc.pipeline.choice import choose_network
from lwdc.pipeline.determinism import deterministic
from lwdc.pipeline.measures import environment, measure_both, measure_sites
from lwdc.pipeline.opening import opening
from lwdc.pipeline.prepare import SUPERNET, Prepared, Trainable, load_search, prepare, prepare_training
from lwdc.pipeline.quantising import quantise, warning_of
from lwdc.pipeline.ranks import Ranks
from lwdc.pipeline.run import Run, alone, resumable
from lwdc.pipeline.scoring import search_by_scores, train_paths
from lwdc.pipeline.settings import Settings
from lwdc.records import Accuracies, CostResult, Result, as_dict
from lwdc.selection import selection_ops
from lwdc.strategies import Chooser, search_fit
from lwdc.surgery import discretise, rebuild
from lwdc.tracking import Sink
from lwdc.training import Fit, Recipe, load_checkpoint, put_tensors, read_tensors, save_checkpoint

PHASES = ("baseline", "search", "finetune", "export")
TIMED = ("baseline", "paths", "search", "finetune")  # as they follow one another; paths in searches by scores alone
TABLES = "costs.json"


def compress(
    settings: Settings,
    folder: Path,
    config: dict[str, Any],
    sinks: Sequence[Sink] = (),
    *,
    until: str = "export",
    resume: bool = False,
    ignore: Sequence[str] = (),
) -> Result | None:
    """Run the line in ``folder`` up to and with the phase ``until``; phases already done there are kept.

    Up to the baseline nothing is asked of space, gate and cost. ``config`` is what a resumed run must agree
    with, except below the keys in ``ignore``. Returns the result after the last phase, None before it.

    Where ``settings.compute`` asks for several processes, all of them call this; the first one's folder and sinks
    count, and the others need none.
    """
    with deterministic(settings.seed) if settings.deterministic else contextlib.nullcontext():
        return _compress(settings, folder, config, sinks, until=until, resume=resume, ignore=ignore)


def _compress(
    settings: Settings,
    folder: Path,
    config: dict[str, Any],
    sinks: Sequence[Sink],
    *,
    until: str,
    resume: bool,
    ignore: Sequence[str],
) -> Result | None:
    ranks = Ranks(settings.compute)
    folder = ranks.from_first(lambda: folder)
    if resume:
        # Before its costs are taken for those of these settings.
        done = ranks.from_first(lambda: _done(folder, config, ignore))
        # What the run has by now it needs from no other.
        settings = dataclasses.replace(
            settings,
            baseline=None if "baseline" in done else settings.baseline,
            searched=None if "search" in done else settings.searched,
        )
    if until == "baseline":
        prepared: Trainable = prepare_training(settings, ranks)
    else:
        # A supernet trained by paths serves any costs.
        source = folder if resume else settings.searched if settings.scores is None else None
        tables = None if source is None else ranks.from_first(lambda: _tables(source))
        prepared = prepare(settings, tables, ranks)
    options: dict[str, Any] = {"ignore": ignore, "checkpoint_minutes": settings.checkpoint_minutes}
    with contextlib.ExitStack() as stack:
        ranks.from_first(lambda: stack.enter_context(alone(folder, resume=resume)))
        run = stack.enter_context(Run(folder, config, sinks, ranks=ranks, resume=resume, **options))
        try:
            return _go(prepared, run, until)
        except KeyboardInterrupt as stop:
            raise Interrupted(
                f"stopped at once; what the last checkpoint holds is safe. Go on with: {typed('resume', folder)}",
                run.stopped_by or signal.SIGINT,
            ) from stop
        except (DataError, WriteError) as error:
            raise type(error)(f"{error} Then go on with: {typed('resume', folder)}") from error


def _done(folder: Path, config: dict[str, Any], ignore: Sequence[str]) -> dict[str, Any]:
    check_folder(folder, resume=True)
    done: dict[str, Any] = resumable(folder, config, ignore)["done"]
    return done


def _go(prepared: Trainable, run: Run, until: str) -> Result | None:
    if "export" in run.done:
        return run.show_result()
    if not isinstance(prepared, Prepared) or "plan" not in run.done:
        for line in opening(prepared, run.folder):
            run.note(line)
    if not isinstance(prepared, Prepared):
        _baseline(prepared, run)
        return None
    if "plan" not in run.done:
        if run.ranks.first:
            write_json(run.folder / TABLES, [table.to_dict() for table in prepared.tables])
        run.finish("plan")
    baseline = _baseline(prepared, run)
    discretised, architecture = _search(prepared, run, baseline)
    if until == "search":
        return None
    network = _finetune(prepared, run, baseline, discretised, architecture)
    if until == "finetune":
        return None
    return run.ranks.from_first(lambda: _export(prepared.alone(), run, baseline, discretised, network, architecture))


def _tables(folder: Path) -> list[CostTable] | None:
    """The costs that a run found, because some are measured; None if it came not so far."""
    path = folder / TABLES
    if not path.is_file():
        return None
    try:
        return [CostTable.from_dict(table) for table in read_json(path, finite=False)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} holds no costs of this version of lwdc: {error!r}.") from error


def _baseline(prepared: Trainable, run: Run) -> nn.Module:
    settings, model = prepared.settings, prepared.model
    path = run.folder / "baseline.safetensors"
    if "baseline" in run.done:
        _restore(model, path, run)
        return prepared.placed(model)
    seconds, bare = 0.0, False
    if (trained := settings.searched or settings.baseline) is not None:
        run.note(f"the baseline is that of {trained}")
    else:
        named = settings.backbone
        given = named.pretrained or named.weights is not None or named.options.get("checkpoint_path")
        bare = settings.train.epochs == 0 and not given
        if bare:
            run.note("no weights are given by backbone.weights or backbone.pretrained, and train.epochs=0 trains none")
        seconds = run.train(_fit("baseline", model, settings.train, prepared))
    prepared.placed(model)
    if run.ranks.first:
        _save_weights(model, path)
    valid = prepared.accuracy(model, "valid")
    if trained is not None or settings.train.epochs == 0:
        run.note(f"the baseline has {valid:.1%} of the validation examples right")
        if not bare:
            _warn_of_baseline(valid, settings.data.num_classes, run)
    run.finish("baseline", seconds=seconds, valid=valid)
    return model


def _warn_of_baseline(valid: float, classes: int, run: Run) -> None:
    """Warn of a baseline that this run does not train if what it has right is next to nothing."""
    if valid < 1 / classes + _NEXT_TO_NOTHING * (1 - 1 / classes):
        run.note(
            f"that is hardly better than guessing among {classes} classes, and all that follows begins with it: train "
            "it (train.epochs), or check its weights, the order of its classes, and data.mean and data.std",
            "warning",
        )


_NEXT_TO_NOTHING = 0.1  # of the way from guessing to everything right


def _search(prepared: Prepared, run: Run, baseline: nn.Module) -> tuple[nn.Module, Architecture]:
    supernet = prepared.placed(prepared.supernet(baseline))
    if "search" in run.done:
        return _chosen(run, supernet)
    seconds, find = _trained_search(prepared, run, baseline, supernet)
    figures = run.ranks.from_first(lambda: _choose(prepared.alone(), run, baseline, supernet, find))
    seconds += figures.pop("seconds")
    run.finish("search", seconds=seconds, **figures)
    return _chosen(run, supernet)


def _trained_search(
    prepared: Prepared, run: Run, baseline: nn.Module, supernet: nn.Module
) -> tuple[float, Callable[[], tuple[Chooser, dict[str, Any]]]]:
    """What all ranks do of the search, in place on the supernet: its wall time, and how the first one then chooses.

    That also gives figures, with further ``seconds``.
    """
    settings = prepared.settings
    if settings.scores is not None:
        train_paths(prepared, run, baseline, supernet)
        return 0.0, lambda: search_by_scores(prepared.alone(), run, baseline, supernet)
    lesson = prepared.lesson(supernet)
    seconds = 0.0
    if settings.searched is not None:
        load_search(supernet, settings.searched, SUPERNET)
        run.note(f"the search is that of {settings.searched}")
    else:
        teacher = copy.deepcopy(baseline) if settings.search.objective.needs_teacher else None
        fit = search_fit(
            supernet, settings.data, settings.search, lesson,
            seed=settings.seed, fabric=prepared.fabric, teacher=teacher, execution=settings.compute.execution,
        )  # fmt: skip
        seconds = run.train(fit)
    return seconds, lambda: (lesson, {"seconds": 0.0})


def _choose(
    prepared: Prepared,
    run: Run,
    baseline: nn.Module,
    supernet: nn.Module,
    find: Callable[[], tuple[Chooser, dict[str, Any]]],
) -> dict[str, Any]:
    """Choose an architecture and write it, with its weights and the supernet's; figures for later phases."""
    chooser, known = find()
    clock = time.perf_counter()
    choice = choose_network(prepared, chooser, supernet, baseline, run.note)
    seconds = known["seconds"] + time.perf_counter() - clock
    save_checkpoint(run.folder / SUPERNET, {"state": supernet.state_dict()})
    _save_weights(choice.network, run.folder / "discretised.safetensors")
    choice.architecture.save(run.folder / "architecture.json")
    if warning := choice.architecture.verdict():
        run.note(warning, "warning")
    return {
        **known,
        "seconds": seconds,
        "weights": choice.weights,
        "valid": choice.valid,
        "supernet_valid": prepared.accuracy(supernet, "valid"),
        "cost_before": prepared.table.in_unit(prepared.table.total),
        "cost_after": prepared.table.in_unit(prepared.table.of(choice.architecture)),
        "measured": choice.measured,
        "warnings": choice.warnings,
        "probabilities": choice.probabilities,
        "errors": {n: op.errors for n, op in selection_ops(supernet).items()},
    }


def _chosen(run: Run, supernet: nn.Module) -> tuple[nn.Module, Architecture]:
    """What the search has written."""
    architecture = run.ranks.from_first(lambda: Architecture.load(run.folder / "architecture.json"))
    network, _ = discretise(supernet, architecture)
    _restore(network, run.folder / "discretised.safetensors", run)
    return network, architecture


def _restore(network: nn.Module, path: Path, run: Run) -> None:
    """Load the weights that a phase has written, in place."""
    put_tensors(network, run.ranks.from_first(lambda: read_tensors(path)), path)


def _finetune(
    prepared: Prepared, run: Run, baseline: nn.Module, discretised: nn.Module, architecture: Architecture
) -> nn.Module:
    settings = prepared.settings
    path = run.folder / "finetuned.safetensors"
    network = copy.deepcopy(discretised)
    if "finetune" in run.done:
        _restore(network, path, run)
        return network
    if settings.from_scratch:
        prepared.seed("scratch")
        fresh = prepared.backbone.create()
        network = prepared.placed(rebuild(fresh, architecture, settings.data.input_size))
    teacher = copy.deepcopy(baseline) if settings.finetune.objective.needs_teacher else None
    seconds = run.train(_fit("finetune", network, settings.finetune, prepared, teacher))
    if run.ranks.first:
        _save_weights(network, path)
    run.finish("finetune", seconds=seconds, valid=prepared.accuracy(network, "valid"))
    return network


def _export(
    prepared: Prepared,
    run: Run,
    baseline: nn.Module,
    discretised: nn.Module,
    network: nn.Module,
    architecture: Architecture,
) -> Result:
    settings, data = prepared.settings, prepared.settings.data
    clock = time.perf_counter()
    exports = export_all(
        run.folder, network, architecture, formats=settings.formats, backbone=prepared.backbone,
        preprocessing=data.preprocessing, class_names=data.class_names, input_size=data.input_size,
    )  # fmt: skip
    int8 = None
    if settings.int8:
        int8 = quantise(run.folder, data, settings.train.batch_size, settings.latency_batches, seed=settings.seed)
    search = run.done["search"]
    sites = measure_sites(prepared.plan, baseline, network, architecture, search["probabilities"], search["errors"])
    supernet = prepared.placed(prepared.supernet(baseline))
    supernet.load_state_dict(load_checkpoint(run.folder / SUPERNET)["state"])
    four = (baseline, supernet, discretised, network)
    test = Accuracies(*(prepared.accuracy(model, "test") for model in four))
    warnings = [*search["warnings"], architecture.verdict(), None if int8 is None else warning_of(int8)]
    warnings.append(run.name_unreadable(data.unreadable_files()))
    file = next((run.folder / export.file for export in exports if export.format == "onnx"), None)
    before, after, untimed = measure_both(baseline, network, file, data.input_size, settings.latency_batches)
    warnings.append(untimed)
    result = Result(
        name=f"{prepared.backbone.name} on {data.name}",
        seed=settings.seed,
        costs=_costs(prepared, architecture, search["measured"]),
        before=before,
        after=after,
        valid=Accuracies(
            run.done["baseline"]["valid"],
            search["supernet_valid"],
            search["valid"],
            run.done["finetune"]["valid"],
        ),
        test=test,
        sites=sites,
        exports=tuple(exports),
        warnings=tuple(text for text in warnings if text),
        seconds={phase: run.done[phase]["seconds"] for phase in TIMED if phase in run.done}
        | {"export": time.perf_counter() - clock},
        environment=environment(prepared.fabric.device),
        folder=str(run.folder),
        int8=int8,
        weights=search.get("weights"),  # earlier versions did not say
    )
    write_json(run.folder / "summary.json", as_dict(result))
    write_card(result, run.folder, licence=settings.licence)
    run.write(result)
    run.finish("export")
    return result


def _costs(
    prepared: Prepared, architecture: Architecture, measured: Sequence[float | None]
) -> tuple[CostResult, ...]:  # fmt: skip
    found = []
    asked = zip(prepared.settings.cost.all, prepared.tables, prepared.bounds, measured, strict=True)
    for cost, table, bound, whole in asked:
        found.append(
            CostResult(
                name=table.name,
                unit=table.unit,
                factor=cost.factor,
                budget=None if cost.budget is None else str(cost.budget),
                bound=None if bound is None else table.in_unit(bound),
                before=table.in_unit(table.total),
                after=table.in_unit(table.of(architecture)),
                measured=whole,
                agreement=None if table.agreement is None else table.agreement._asdict(),
            )
        )
    return tuple(found)


def _fit(phase: str, model: nn.Module, recipe: Recipe, prepared: Trainable, teacher: nn.Module | None = None) -> Fit:
    return Fit(
        phase, model, prepared.settings.data, recipe, seed=prepared.settings.seed, fabric=prepared.fabric,
        teacher=teacher, execution=prepared.settings.compute.execution,
    )  # fmt: skip


def _save_weights(model: nn.Module, path: Path) -> None:
    content = save({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
