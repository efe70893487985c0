"""Preparation: everything that can be refused is refused here, before any long work."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from lightning_fabric import Fabric
from torch import nn

from lwdc.backbones import Backbone, check_fits, create, load_weights
from lwdc.candidates.sampling import starts_of
from lwdc.costs import CostTable, choose_within, parse_budget, read_budget, tabulate
from lwdc.data.seeding import seed_all
from lwdc.errors import BackboneError, CheckpointError, CostError, LwdcError, SpaceError, TrainingError
from lwdc.pipeline.ranks import Ranks
from lwdc.pipeline.settings import FrontSettings, Settings
from lwdc.proposers import Menu, Proposer
from lwdc.selection import selection_ops
from lwdc.space import Plan, make_plan
from lwdc.strategies import (
    Dialled,
    FrontLesson,
    Held,
    JointLesson,
    Pressure,
    SearchLesson,
    add_dial,
    check_pressure,
    dial_of,
)
from lwdc.surgery import begin_with_prior, wrap
from lwdc.training import accuracy, load_checkpoint
from lwdc.training.fit import derive_seed
from lwdc.training.ranks import shard_of


@dataclasses.dataclass(frozen=True)
class Trainable:
    """Data read and network built: what training the baseline needs."""

    settings: Settings
    ranks: Ranks
    backbone: Backbone
    model: nn.Module  # with the weights that training starts from
    notes: tuple[str, ...]

    @property
    def fabric(self) -> Fabric:
        """Of the ranks."""
        return self.ranks.fabric

    def alone(self) -> Self:
        """For what one rank does on its own."""
        return dataclasses.replace(self, ranks=self.ranks.alone())

    def seed(self, what: str) -> None:
        """What is random outside of a ``Fit`` must not depend on how the run came there."""
        seed_all(derive_seed(self.settings.seed, what, 0))

    def placed(self, model: nn.Module) -> nn.Module:
        """On the device of the run, in place."""
        return model.to(self.fabric.device)

    def accuracy(self, model: nn.Module, split: str) -> float:
        """Top-1, in [0, 1], on a split of the data; the model is left in evaluation mode."""
        batches = self.settings.data.batches(split, self.settings.train.batch_size, shard_of(self.fabric))
        # To compile a network for one pass over the examples takes longer than it saves.
        execution = dataclasses.replace(self.settings.compute.execution, compile=False, sync_norms=False)
        with self.ranks.noticing_loss(), execution.of(model):
            return accuracy(model, batches, self.fabric, execution)


@dataclasses.dataclass(frozen=True)
class Prepared(Trainable):
    """A run that can begin: also a space laid on the network, costs counted, the budget reachable."""

    plan: Plan
    tables: tuple[CostTable, ...]  # one for every cost, the one asked for first before the others
    bounds: tuple[int | None, ...]  # of their budgets, in whole numbers of the tables
    front: tuple[int, int] | None = None  # the bounds between which a front is searched for, the smaller one first
    menu: Menu | None = None  # what a search by scores chooses from

    @property
    def table(self) -> CostTable:
        """Of the cost asked for first."""
        return self.tables[0]

    @property
    def bound(self) -> int | None:
        """Of its budget."""
        return self.bounds[0]

    def supernet(self, baseline: nn.Module) -> nn.Module:
        """The supernet around ``baseline``, which is left as it was."""
        settings = self.settings
        self.seed("wrap")
        supernet = wrap(baseline, gate=settings.gate, inherit=settings.inherit, mixing=settings.mixing, plan=self.plan)
        if settings.scores is None:  # else paths are drawn evenly
            begin_with_prior(supernet, settings.prior)
        self.add_dial(supernet)
        return supernet

    @property
    def bounded(self) -> list[tuple[CostTable, int]]:
        """The tables that have a bound, with it."""
        pairs = zip(self.tables, self.bounds, strict=True)
        return [(table, bound) for table, bound in pairs if bound is not None]

    @property
    def has_beginning(self) -> bool:
        """Whether there is a choice without a search: where operators inherit, by what they keep, within bounds."""
        settings = self.settings
        return settings.beginning and settings.inherit and settings.prior > 0 and None not in self.bounds

    def add_dial(self, supernet: nn.Module) -> None:
        """Where a front is searched for: make the gates functions of the budget, in place."""
        if self.front is not None:
            smallest, largest = (bound / self.table.total for bound in self.front)
            assert self.settings.front is not None
            add_dial(supernet, self.table, largest, smallest, self.settings.front.knots)

    def lesson(self, supernet: nn.Module) -> SearchLesson:
        """What the search adds to training."""
        settings = self.settings
        assert settings.logits_optim is not None
        joint = JointLesson(
            supernet, self._pressures(supernet), settings.logits_optim,
            decide=settings.decide, decide_from=settings.decide_from, rest_from=settings.rest_from,
        )  # fmt: skip
        if self.front is None:
            return joint
        assert self.bound is not None
        return FrontLesson(joint, self.bound)

    def proposer(self, reference: float) -> Proposer:
        """The strategy of a search by scores, whose original network has the accuracy ``reference``."""
        scores = self.settings.scores
        assert scores is not None and self.menu is not None
        seed = derive_seed(self.settings.seed, "proposer", 0) % 2**32
        try:
            return scores.proposer(self.menu, score=scores.score, reference=reference, seed=seed)
        except TypeError as error:
            raise LwdcError(f"strategy.proposer cannot be built: {error}") from error

    def _pressures(self, supernet: nn.Module) -> list[Pressure | Held | Dialled]:
        """One for every cost."""
        if self.front is not None:
            return [Dialled(self.table, dial_of(supernet))]
        pressures: list[Pressure | Held | Dialled] = []
        for cost, table, bound in zip(self.settings.cost.all, self.tables, self.bounds, strict=True):
            if bound is not None:
                pressures.append(Held(table, bound, cost.begin, cost.end))
            else:
                assert cost.factor is not None
                pressures.append(Pressure(table, cost.factor, cost.shape, cost.ramp))
        return pressures


def prepare_training(settings: Settings, ranks: Ranks | None = None) -> Trainable:
    """Read the data and build the network. Raises the ``LwdcError`` of whatever does not fit."""
    ranks = ranks or Ranks(settings.compute)
    data = settings.data
    settings.compute.execution.check(data.input_size)
    data.prepare(ranks.fabric.device)
    for recipe in (settings.train, settings.search, settings.finetune):
        recipe.check_ranks(ranks.count)
        recipe.check(data.steps(recipe.batch_size))
        recipe.mixing(data.num_classes, ranks.count, data.input_size)
        recipe.check_precision(scaled=settings.compute.precision == "16-mixed")
    if settings.search.ema is not None:
        raise TrainingError("strategy.ema: a search cannot average weights; fine-tuning can, by finetune.ema.")
    named = settings.backbone
    backbone = named.of(data.num_classes, data.input_size[0])
    seed_all(derive_seed(settings.seed, "init", 0))
    model, notes = create(backbone, pretrained=named.pretrained, weights=named.weights)
    check_fits(model, data.input_size, data.num_classes)
    trained = settings.searched or settings.baseline
    if trained is not None:
        if named.reparameterise:
            model, told = create(backbone, weights=baseline_file(trained))
        else:
            told = load_weights(model, baseline_file(trained))
        notes += told
    notes += data.notes()
    notes += settings.compute.notes(ranks.fabric.device.type)
    return Trainable(settings, ranks, backbone, model, tuple(notes))


def prepare(
    settings: Settings, tables: Sequence[CostTable] | None = None, ranks: Ranks | None = None
) -> Prepared:  # fmt: skip
    """Prepare training, lay the space on the network and check the budgets.

    ``tables`` are those of the same run before it was interrupted, or of the run whose search is reused: what was
    measured is not measured again. Raises the ``LwdcError`` of whatever does not fit.
    """
    if settings.searched is not None:
        _search_file(settings.searched, reused_file(settings))
    settings.check_choice()
    costs = settings.cost.all
    if settings.scores is not None:
        settings.scores.check_costs(costs)
    else:
        for cost in costs:
            check_pressure(cost.model.name, cost.factor, cost.budget)
    _check_budgets(settings)
    start = prepare_training(settings, ranks)
    model = start.model
    plan = make_plan(model, settings.space, settings.data.input_size)
    probe = start.placed(wrap(model, gate=settings.gate, inherit=False, mixing=settings.mixing, plan=plan))
    if settings.compute.checkpointing and not any(op.may_branch for op in selection_ops(probe).values()):
        raise SpaceError(
            "compute.checkpointing computes branches again, and in this space all operators are mixed as kernels: "
            "leave it out."
        )
    if settings.finetune.ema is not None and starts_of(probe):
        raise TrainingError("finetune.ema cannot average the starts of epitomes, which become whole: leave it out.")
    names = [cost.model.name for cost in costs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CostError(f"the cost {twice!r} is asked for twice: give each one factor or budget.")
    if tables is None:
        tables = start.ranks.from_first(lambda: [tabulate(probe, cost.model) for cost in costs])
    tables = tuple(tables)
    if any(list(table.sites) != list(selection_ops(probe)) for table in tables):
        raise CheckpointError(f"searched={settings.searched}: that search was not one of this network and space.")
    bounds = tuple(
        None if cost.budget is None else parse_budget(cost.budget, table)
        for cost, table in zip(costs, tables, strict=True)
    )
    front = None if settings.front is None else _range(settings.front, tables[0], bounds[0])
    menu = None if settings.scores is None else Menu.of(plan, tables, bounds)
    prepared = Prepared(settings, start.ranks, start.backbone, model, start.notes, plan, tables, bounds, front, menu)
    prepared.add_dial(probe)
    if settings.searched is not None:
        load_search(probe, settings.searched, reused_file(settings))
    if menu is None:
        prepared.lesson(probe).choice()  # refuses budgets that clash
    else:
        choose_within(probe, prepared.bounded)  # does, too
        prepared.proposer(reference=1.0)  # and this what it cannot be built with
    return prepared


def _check_budgets(settings: Settings) -> None:
    """Raise ``CostError`` for what no table can make a bound of: tables are measured, which may take minutes."""
    asked = [(cost.budget, cost.model.unit) for cost in settings.cost.all if cost.budget is not None]
    if settings.front is not None:
        asked += [(budget, settings.cost.model.unit) for budget in settings.front.budgets]
    for budget, unit in asked:
        read_budget(budget, unit)


def _range(front: FrontSettings, table: CostTable, asked: int | None) -> tuple[int, int]:
    """The bounds between which a front is searched for. Raises ``CostError`` unless the one asked for lies there."""
    smaller, larger = sorted(parse_budget(budget, table) for budget in front.budgets)
    if smaller == larger:
        raise CostError(f"strategy.front.budgets are the two ends of a range, found {front.budgets}.")
    if asked is None or not smaller <= asked <= larger:
        raise CostError(
            f"the search covers budgets from {table.show(smaller)} to {table.show(larger)} "
            f"({' to '.join(map(str, front.budgets))}), cost.budget is "
            f"{'none' if asked is None else table.show(asked)}: choose one between, or search again with other "
            "strategy.front.budgets."
        )
    return smaller, larger


def load_search(supernet: nn.Module, folder: Path, name: str) -> None:
    """Load what an earlier run made of the same supernet, in place. Raises ``CheckpointError``."""
    path = _search_file(folder, name)
    try:
        supernet.load_state_dict(load_checkpoint(path)["state"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"searched={folder}: that search was not one of this network, space and strategy: "
            f"{str(error).splitlines()[0]}"
        ) from error


SUPERNET = "supernet.pt"  # as it is when the architecture has been chosen
PATHS = "paths.pt"  # trained by sampling paths, before any search


def reused_file(settings: Settings) -> str:
    """What ``searched`` takes from another run's folder."""
    return SUPERNET if settings.scores is None else PATHS


def _search_file(folder: Path, name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise CheckpointError(f"searched={folder} has no {path.name}; name the folder of a run that has searched.")
    return path


def baseline_file(folder: Path) -> Path:
    """The trained baseline of an earlier run. Raises ``BackboneError`` if the folder has none."""
    path = Path(folder) / "baseline.safetensors"
    if not path.is_file():
        raise BackboneError(
            f"baseline={folder} has no {path.name}; name the folder of a run that trained its baseline."
        )
    return path
