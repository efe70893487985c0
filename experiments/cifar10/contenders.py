"""The contenders: each makes a small network from the same start, data and number of training steps."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from narrow import narrow
from pruning import SPARSE_LR, SparseLesson, make_pruner, prune_to, shaped_like
from results import read_records
from safetensors.torch import load_file, save_file
from setting import INPUT_SIZE, NOT_COMPARED, Entry
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.costs import CostTable, choose
from lwdc.errors import LwdcError
from lwdc.files import replacing
from lwdc.folders import CHECKPOINT
from lwdc.pipeline import Run, Settings, compress, prepare
from lwdc.pipeline.choice import images_to_refit
from lwdc.pipeline.prepare import Trainable, prepare_training
from lwdc.refitting import refit
from lwdc.selection import selection_ops
from lwdc.surgery import begin_with_prior, discretise, rebuild
from lwdc.tracking import Sink
from lwdc.training import Fit, Recipe, accuracy, load_checkpoint, recalibrate
from lwdc.training.fit import Lesson, derive_seed


@dataclasses.dataclass(frozen=True)
class Job:
    """An entry to be run: with its settings, and the folder in which it goes on where it stopped."""

    entry: Entry
    settings: Settings
    config: dict[str, Any]
    folder: Path
    records: Path  # of the runs that are finished
    sinks: Sequence[Sink] = ()

    @property
    def backbone(self) -> Backbone:
        return self.settings.backbone.of(self.settings.data.num_classes, self.settings.data.input_size[0])

    @property
    def goes_on(self) -> bool:
        return (self.folder / CHECKPOINT).exists()

    def run(self) -> Run:
        """The run in the folder, begun or gone on with."""
        return Run(
            self.folder, self.config, self.sinks, resume=self.goes_on, ignore=NOT_COMPARED,
            checkpoint_minutes=self.settings.checkpoint_minutes,
        )  # fmt: skip

    def recipe(self, epochs: int, *, fresh: bool = False) -> Recipe:
        """The one of fine-tuning for so many epochs; ``fresh`` weights take the learning rate of training."""
        finetune, train = self.settings.finetune, self.settings.train
        return dataclasses.replace(finetune, epochs=epochs, optim=train.optim if fresh else finetune.optim)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished network, with the seconds and steps of each part that led to it."""

    network: nn.Module
    parts: dict[str, dict[str, float]]


def original(job: Job) -> Outcome:
    """The network that all others start from, as it is."""
    return Outcome(prepare_training(job.settings).model, {})


def trained_on(job: Job) -> Outcome:
    """The original network itself, trained for as many steps as the others: what that takes, and what it gains."""
    started = prepare_training(job.settings)
    with job.run() as run:
        network = _copy_of(started.model, job)
        _finetune(network, run, job, started, job.recipe(job.entry.setting.epochs))
        return Outcome(network, _parts(run))


def lwdc(job: Job) -> Outcome:
    """The product: what ``lwdc compress`` does up to the fine-tuned network, by the same function."""
    compress(job.settings, job.folder, job.config, job.sinks, until="finetune", resume=job.goes_on, ignore=NOT_COMPARED)
    done = load_checkpoint(job.folder / CHECKPOINT)["done"]
    steps = job.settings.data.steps(job.settings.search.batch_size)
    lengths = {"search": job.settings.search.epochs, "finetune": job.settings.finetune.epochs}
    network = rebuild(job.backbone.create(), Architecture.load(job.folder / "architecture.json"), INPUT_SIZE)
    network.load_state_dict(load_file(job.folder / "finetuned.safetensors"))
    return Outcome(network, {p: {"seconds": done[p]["seconds"], "steps": n * steps} for p, n in lengths.items()})


def random(job: Job) -> Outcome:
    """A random architecture of lwdc's space with as many MACs, from inherited and refitted weights."""
    return _unsearched(job, random_architecture)


def kept(job: Job) -> Outcome:
    """No search: what keeps most of the trained layers within the bound, as the gates begin; inherited, refitted."""
    return _unsearched(job, keeping_architecture)


def _unsearched(job: Job, pick: Callable[[nn.Module, CostTable, int, int], Architecture]) -> Outcome:
    prepared = prepare(job.settings)
    assert prepared.bound is not None
    with job.run() as run:
        clock = time.perf_counter()
        supernet = prepared.supernet(prepared.model).to(prepared.fabric.device)
        architecture = pick(supernet, prepared.table, prepared.bound, job.entry.seed)
        network, _ = discretise(supernet, architecture)
        architecture.save(job.folder / "architecture.json")
        if "choose" not in run.done and (images := images_to_refit(prepared)) is not None:
            refit(network, prepared.placed(prepared.model), architecture, images)
        _start_from(network, "choose", run, job, prepared, clock)
        _finetune(network, run, job, prepared, job.recipe(job.entry.setting.epochs))
        return Outcome(network, _parts(run))


def random_architecture(supernet: nn.Module, table: CostTable, bound: int, seed: int) -> Architecture:
    """The best within ``bound`` by uniformly random scores, chosen as a search chooses; in place on the gates.

    Where that stays more than 2% below the bound, scores are tilted towards cost, as little as will do.
    """
    rng = torch.Generator().manual_seed(derive_seed(seed, "random", 0))
    drawn = {group: torch.rand(len(costs), generator=rng) for group, costs in table.group_costs().items()}
    shares = {group: torch.tensor(costs) / table.total for group, costs in table.group_costs().items()}
    ops = selection_ops(supernet)

    def chosen(tilt: float) -> Architecture:
        with torch.no_grad():
            for group in drawn:
                ops[group].gate.logits.copy_(drawn[group] + tilt * shares[group])
        return choose(supernet, table, bound)

    low, high = 0.0, 0.0
    while table.of(found := chosen(high)) < 0.98 * bound and high < 1e4:
        low, high = high, max(1.0, 2 * high)
    for _ in range(8 if high else 0):
        middle = (low + high) / 2
        if table.of(nearer := chosen(middle)) < 0.98 * bound:
            low = middle
        else:
            high, found = middle, nearer
    return found


def keeping_architecture(supernet: nn.Module, table: CostTable, bound: int, seed: int) -> Architecture:
    """The largest product of kept energies within ``bound``; in place on the gates."""
    del seed
    begin_with_prior(supernet, 1.0)
    return choose(supernet, table, bound)


def from_scratch(job: Job, *, of: str) -> Outcome:
    """The architecture that a recorded run of contender ``of`` ended with, trained from fresh weights."""
    finished = {Entry.of(record).compared(): record["structure"] for record in read_records(job.records)}
    found = dataclasses.replace(job.entry, contender=of).compared()
    if found not in finished:
        raise LwdcError(
            f"{job.records} has no run of {of} with this setting, point and seed, whose architecture {job.entry.name} "
            "trains: run that first."
        )
    started = prepare_training(job.settings)
    with job.run() as run:
        architecture = Architecture(finished[found])
        architecture.save(job.folder / "architecture.json")
        torch.manual_seed(derive_seed(job.entry.seed, "scratch", 0))
        network = rebuild(job.backbone.create(), architecture, INPUT_SIZE)
        _finetune(network, run, job, started, job.recipe(job.entry.setting.epochs, fresh=True))
        return Outcome(network, _parts(run))


def narrower(job: Job) -> Outcome:
    """The same network with fewer channels everywhere, trained from fresh weights."""
    started = prepare_training(job.settings)
    with job.run() as run:
        backbone = narrow(job.backbone, job.entry.bound(), INPUT_SIZE)
        torch.manual_seed(derive_seed(job.entry.seed, "scratch", 0))
        network = backbone.create()
        _finetune(network, run, job, started, job.recipe(job.entry.setting.epochs, fresh=True))
        return Outcome(network, _parts(run))


def pruned(job: Job, *, sparse: bool = False, everywhere: bool = True) -> Outcome:
    """Torch-Pruning's group-norm pruner, after sparse learning if ``sparse``, and fine-tuning."""
    started = prepare_training(job.settings)
    setting = job.entry.setting
    network = _copy_of(started.model, job)
    network.to(started.fabric.device)
    with job.run() as run:
        if "prune" in run.done:
            shaped_like(network, load_file(job.folder / "prune.safetensors"))
        else:
            pruner = make_pruner(network, network.get_classifier(), INPUT_SIZE, sparse=sparse, everywhere=everywhere)
            if sparse:
                recipe = dataclasses.replace(
                    job.settings.search, optim=partial(job.settings.search.optim, lr=SPARSE_LR, weight_decay=0.0)
                )
                _train("sparse", network, run, job, started, recipe, SparseLesson(network, pruner))
            clock = time.perf_counter()
            prune_to(network, pruner, job.entry.bound(), INPUT_SIZE)
            _start_from(network, "prune", run, job, started, clock)
        epochs = setting.epochs - setting.search if sparse else setting.epochs
        _finetune(network, run, job, started, job.recipe(epochs))
        return Outcome(network, _parts(run))


CONTENDERS: dict[str, Callable[[Job], Outcome]] = {
    "original": original,
    "trained_on": trained_on,
    "lwdc": lwdc,
    "random": random,
    "kept": kept,
    "lwdc_scratch": partial(from_scratch, of="lwdc"),
    "random_scratch": partial(from_scratch, of="random"),
    "depgraph": pruned,
    "depgraph_local": partial(pruned, everywhere=False),
    "depgraph_sparse": partial(pruned, sparse=True),
    "narrow": narrower,
}
UNCOMPRESSED = ("original", "trained_on")  # at no point: a run of the one, and one for each seed of the other


def _copy_of(model: nn.Module, job: Job) -> nn.Module:
    network = job.backbone.create()
    network.load_state_dict(model.state_dict())
    return network


def _start_from(network: nn.Module, part: str, run: Run, job: Job, started: Trainable, clock: float) -> None:
    """Re-estimate batch norm and keep the network as the part's result; or take up what was kept, in place."""
    path = job.folder / f"{part}.safetensors"
    if part in run.done:
        network.load_state_dict(load_file(path))
        return
    settings = job.settings
    batches = settings.data.train(seed=settings.seed, epoch=0, batch_size=settings.search.batch_size)
    recalibrate(network, batches, settings.recalibrate_batches, started.fabric)
    _save(network.state_dict(), path)
    valid = _valid(network, job, started)
    run.finish(part, seconds=time.perf_counter() - clock, steps=0, valid=valid)
    run.note(f"{part}: {valid:.1%} of the validation examples right before fine-tuning")


def _finetune(network: nn.Module, run: Run, job: Job, started: Trainable, recipe: Recipe) -> None:
    _train("finetune", network, run, job, started, recipe)


def _train(
    phase: str, network: nn.Module, run: Run, job: Job, started: Trainable, recipe: Recipe, lesson: Lesson | None = None
) -> None:
    """One phase of training, in place, with the original network as the teacher."""
    path = job.folder / f"{phase}.safetensors"
    network.to(started.fabric.device)
    if phase in run.done:
        network.load_state_dict(load_file(path))
        return
    teacher = started.model if recipe.objective.needs_teacher else None
    fit = Fit(
        phase, network, job.settings.data, recipe,
        seed=job.settings.seed, fabric=started.fabric, teacher=teacher, lesson=lesson,
        execution=job.settings.compute.execution,
    )  # fmt: skip
    seconds = run.train(fit)
    _save(network.state_dict(), path)
    run.finish(phase, seconds=seconds, steps=fit.total, valid=_valid(network, job, started))


def _valid(network: nn.Module, job: Job, started: Trainable) -> float:
    batches = job.settings.data.batches("valid", job.settings.finetune.batch_size)
    return accuracy(network, batches, started.fabric)


def _parts(run: Run) -> dict[str, dict[str, float]]:
    return {part: {"seconds": figures["seconds"], "steps": figures["steps"]} for part, figures in run.done.items()}


def _save(state: dict[str, Tensor], path: Path) -> None:
    with replacing(path) as temporary:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}, temporary)
