"""Preparation: everything that can be refused is refused here, before any long work."""

import dataclasses
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from lwdc.backbones import Backbone, check_fits, create, load_weights
from lwdc.costs import BudgetController, CostTable, parse_budget, tabulate
from lwdc.errors import BackboneError
from lwdc.pipeline.settings import Settings
from lwdc.space import Plan, make_plan
from lwdc.strategies import JointLesson
from lwdc.surgery import begin_with_prior, wrap
from lwdc.training import accuracy
from lwdc.training.fit import derive_seed


@dataclasses.dataclass(frozen=True)
class Trainable:
    """Data read and network built: what training the baseline needs."""

    settings: Settings
    fabric: Fabric
    backbone: Backbone
    model: nn.Module  # with the weights that training starts from
    notes: tuple[str, ...]

    def seed(self, what: str) -> None:
        """What is random outside of a ``Fit`` must not depend on how the run came there."""
        torch.manual_seed(derive_seed(self.settings.seed, what, 0))

    def placed(self, model: nn.Module) -> nn.Module:
        """On the device of the run, in place."""
        return model.to(self.fabric.device)

    def accuracy(self, model: nn.Module, split: str) -> float:
        """Top-1, in [0, 1], on a split of the data; the model is left in evaluation mode."""
        return accuracy(model, self.settings.data.batches(split, self.settings.train.batch_size), self.fabric)


@dataclasses.dataclass(frozen=True)
class Prepared(Trainable):
    """A run that can begin: also a space laid on the network, costs counted, the budget reachable."""

    plan: Plan
    table: CostTable
    bound: int | None  # of the budget, in the table's unit

    def supernet(self, baseline: nn.Module) -> nn.Module:
        """The supernet around ``baseline``, which is left as it was."""
        settings = self.settings
        self.seed("wrap")
        supernet = wrap(baseline, gate=settings.gate, inherit=settings.inherit, mixing=settings.mixing, plan=self.plan)
        begin_with_prior(supernet, settings.prior)
        return supernet

    def lesson(self, supernet: nn.Module) -> JointLesson:
        """What the search adds to training."""
        cost = self.settings.cost
        controller = None
        if self.bound is not None:
            controller = BudgetController(
                self.bound / self.table.total, cost.begin, cost.end, cost.stiffness, cost.rate
            )
        return JointLesson(
            supernet, self.table, self.settings.logits_optim,
            factor=cost.factor, budget=controller, shape=cost.shape, ramp=cost.ramp,
            decide=self.settings.decide, decide_from=self.settings.decide_from, bound=self.bound,
        )  # fmt: skip


def prepare_training(settings: Settings) -> Trainable:
    """Read the data and build the network. Raises the ``LwdcError`` of whatever does not fit."""
    fabric = settings.compute.fabric()
    data = settings.data
    data.prepare(fabric.device)
    for recipe in (settings.train, settings.search, settings.finetune):
        recipe.check(data.steps(recipe.batch_size))
    named = settings.backbone
    backbone = Backbone(named.name, data.num_classes, data.input_size[0], dict(named.options))
    torch.manual_seed(derive_seed(settings.seed, "init", 0))
    model, notes = create(backbone, pretrained=named.pretrained, weights=named.weights)
    check_fits(model, data.input_size, data.num_classes)
    if settings.baseline is not None:
        notes += load_weights(model, baseline_file(settings.baseline))
    return Trainable(settings, fabric, backbone, model, tuple(notes))


def prepare(settings: Settings) -> Prepared:
    """Prepare training, lay the space on the network and check the budget.

    Raises the ``LwdcError`` of whatever does not fit.
    """
    start = prepare_training(settings)
    model = start.model
    plan = make_plan(model, settings.space, settings.data.input_size)
    probe = wrap(model, gate=settings.gate, inherit=False, mixing=settings.mixing, plan=plan)
    table = tabulate(probe, settings.cost.model)
    bound = None if settings.cost.budget is None else parse_budget(settings.cost.budget, table)
    prepared = Prepared(settings, start.fabric, start.backbone, model, start.notes, plan, table, bound)
    prepared.lesson(probe)  # refuses a negative factor, or a factor beside a budget
    return prepared


def baseline_file(folder: Path) -> Path:
    """The trained baseline of an earlier run. Raises ``BackboneError`` if the folder has none."""
    path = Path(folder) / "baseline.safetensors"
    if not path.is_file():
        raise BackboneError(
            f"baseline={folder} has no {path.name}; name the folder of a run that trained its baseline."
        )
    return path
