"""Settings: everything one run needs, as objects and plain data."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from lwdc.backbones import Backbone
from lwdc.costs import CostModel, WholeCostModel, linear
from lwdc.costs.base import check_cost
from lwdc.data import DataModule
from lwdc.errors import CostError, LwdcError, unknown_name
from lwdc.evaluators import Evaluator, Refitted, SharedWeights, identity
from lwdc.export import check_formats
from lwdc.gates import Gate, Softmax
from lwdc.pipeline.compute import Compute
from lwdc.proposers import ProposerFactory, Score, kept
from lwdc.selection import Mixing
from lwdc.space import SearchSpace
from lwdc.training import OptimiserFactory, Recipe

# The supernet's, what is inherited from the baseline, or those with more right before fine-tuning. Where nothing is
# inherited only the supernet's come into question.
Weights = Literal["better", "supernet", "baseline"]


@dataclasses.dataclass(frozen=True)
class BackboneSettings:
    """Which network, and the weights it starts from."""

    name: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    pretrained: bool = False
    weights: str | None = None
    reparameterise: bool = False

    def of(self, num_classes: int, in_chans: int) -> Backbone:
        """The network for so many classes and input channels."""
        return Backbone(self.name, num_classes, in_chans, dict(self.options), self.reparameterise)


@dataclasses.dataclass(frozen=True)
class CostSettings:
    """What is counted, and how strongly: a ``factor`` or a ``budget``."""

    model: CostModel | WholeCostModel
    factor: float | None = None
    budget: float | str | None = None
    shape: Callable[[Tensor], Tensor] = linear
    ramp: float = 0.3  # with a factor: share of the search in which the pressure grows to it
    begin: float = 0.15  # with a budget: share of the search at which its bound begins to fall
    end: float = 0.6  # and at which it is reached
    also: tuple["CostSettings", ...] = ()  # further costs, each with a factor or a budget of its own

    def __post_init__(self) -> None:
        check_cost(self.model)
        if not 0 <= self.ramp <= 1:
            raise CostError(f"cost.ramp is a share of the search in [0, 1], found {self.ramp}.")
        if not 0 <= self.begin <= self.end <= 1:
            raise CostError(
                f"cost.begin and cost.end are shares of the search, 0 <= begin <= end <= 1; found {self.begin} and "
                f"{self.end}."
            )

    @property
    def all(self) -> tuple["CostSettings", ...]:
        """This cost, then the others."""
        return (self, *self.also)


@dataclasses.dataclass(frozen=True)
class FrontSettings:
    """A search for all budgets of a range at once."""

    budgets: tuple[float | str, float | str]  # the ends of the range
    knots: int = 5  # budgets, evenly spaced on a logarithmic scale, between which logits are linear

    def __post_init__(self) -> None:
        if not isinstance(self.budgets, list | tuple) or len(self.budgets) != 2:
            raise LwdcError(f"strategy.front.budgets are the two ends of a range, found {self.budgets}.")
        if not isinstance(self.knots, int) or self.knots < 2:
            raise LwdcError(f"strategy.front.knots is a number from 2 on, found {self.knots!r}.")


@dataclasses.dataclass(frozen=True)
class ScoreSettings:
    """A search by scores: a proposer asks for architectures, and an evaluator says what they are worth."""

    proposer: ProposerFactory
    evaluators: Mapping[str, Evaluator]  # by name, from cheap to dear
    evaluator: str  # the name of the one that scores
    score: Score = kept
    evaluations: int = 100
    batch: int = 10  # architectures that are asked for at once
    jobs: int = 1  # of these evaluated at a time
    correlate: int = 0  # random architectures that all evaluators rank before the search

    def __post_init__(self) -> None:
        for name, least in (("evaluations", 1), ("batch", 1), ("jobs", 1), ("correlate", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise LwdcError(f"strategy.{name} is a number from {least} on, found {value!r}.")
        for evaluator in self.evaluators.values():
            identity(evaluator)
        if self.evaluator not in self.evaluators:
            raise LwdcError("strategy.evaluator: " + unknown_name("evaluator", str(self.evaluator), self.evaluators))
        if self.correlate == 1 or (self.correlate and len(self.evaluators) < 2):
            raise LwdcError(
                f"strategy.correlate={self.correlate} compares how evaluators rank architectures: that takes two or "
                f"more of each, and there are evaluators {', '.join(self.evaluators)}."
            )

    def check_costs(self, costs: Sequence[CostSettings]) -> None:
        """Raises ``CostError`` for what a search by scores cannot do with its costs."""
        for cost in costs:
            if cost.factor is not None:
                raise CostError(
                    f"{cost.model.name}: a search by scores weighs accuracy and cost by strategy.score, and has no use "
                    "for cost.factor: leave it out and give cost.budget, or take the score lwdc.proposers.compression."
                )
            given = {name: getattr(cost, name) for name in ("ramp", "begin", "end")}
            if getattr(cost.shape, "func", cost.shape) is not linear:
                raise CostError(
                    f"{cost.model.name}: cost.shape says how a search by gradients adds a cost to its objective; a "
                    "search by scores has no use for it. Leave it out."
                )
            if changed := [name for name, value in given.items() if value != getattr(CostSettings, name)]:
                raise CostError(
                    f"{cost.model.name}: cost.{changed[0]} says how a search by gradients comes to its budget; a "
                    "search by scores proposes only what keeps it. Leave it out."
                )
        if costs[0].budget is None and self.score(1.0, 0.5) == self.score(1.0, 1.0):
            raise CostError(
                f"{costs[0].model.name}: the score counts accuracy alone, so give cost.budget; or take a score that "
                "counts the cost, by strategy.score._target_=lwdc.proposers.compression."
            )
        if missing := next((cost.model.name for cost in costs[1:] if cost.budget is None), None):
            raise CostError(f"{missing}: a further cost of a search by scores is a bound, so give its budget.")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run of the whole line."""

    backbone: BackboneSettings
    data: DataModule
    cost: CostSettings
    train: Recipe
    search: Recipe
    finetune: Recipe
    logits_optim: OptimiserFactory | None = None  # a search by scores needs none
    prior: float = 4.0  # weight of what operators keep of the trained layers, in the logits at the start
    decide: float = 1.0
    decide_from: float = 0.5
    rest_from: float = 0.9  # share of the search from which logits of one-hot gates rest; 1: they never do
    front: FrontSettings | None = None  # None: a search for one factor or budget
    scores: ScoreSettings | None = None  # None: a search by gradients
    space: SearchSpace = dataclasses.field(default_factory=SearchSpace)
    gate: Callable[[int], Gate] = Softmax
    mixing: Mixing = "auto"
    inherit: bool = True
    beginning: bool = True  # what keeps most of the trained layers within the bounds is tried beside what is searched
    from_scratch: bool = False
    recalibrate_batches: int = 50
    refit_images: int = 512  # examples on which what is chosen is refitted; 0: none
    weights: Weights = "better"  # with which what is chosen goes on; conf/strategy/scores.yaml: the baseline's
    compute: Compute = dataclasses.field(default_factory=Compute)
    formats: Sequence[str] = ("safetensors", "torch_export", "onnx")
    int8: bool = False  # also an ONNX file in int8
    licence: str | None = None  # of the network, for its model card
    latency_batches: Sequence[int] = (1, 64)
    seed: int = 0
    deterministic: bool = False  # only algorithms that give the same bits every time
    baseline: Path | None = None  # folder of a run whose baseline is reused
    searched: Path | None = None  # folder of a run whose baseline and search (of a front), or supernet, are reused
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        check_formats(self.formats)
        if not isinstance(self.int8, bool):
            raise LwdcError(f"export.int8 is true or false, found {self.int8!r}.")
        if not isinstance(self.beginning, bool):
            raise LwdcError(f"strategy.beginning is true or false, found {self.beginning!r}.")
        if not isinstance(self.deterministic, bool):
            raise LwdcError(f"deterministic is true or false, found {self.deterministic!r}.")
        if not 0 <= self.seed < 2**63:
            raise LwdcError(f"seed is a whole number from 0 to below 2**63, found {self.seed}.")
        if self.checkpoint_minutes < 0:
            raise LwdcError(
                f"checkpoint.every_minutes is a number from 0 on, at which every step is saved; found "
                f"{self.checkpoint_minutes}."
            )
        if self.int8 and "onnx" not in self.formats:
            raise LwdcError(
                "export.int8 quantises the ONNX file: add onnx to export.formats, or say export.int8=false."
            )
        if self.front is not None and (self.cost.also or self.cost.budget is None):
            raise LwdcError(
                "strategy=joint_front searches under one cost and is read off at a budget: give cost.budget, and "
                "neither cost.factor nor cost.also; or use strategy=joint."
            )
        if self.searched is not None and self.front is None and self.scores is None:
            raise LwdcError(
                "searched= takes up a search with strategy=joint_front, or the supernet of a search by scores: give "
                "such a strategy here, too."
            )
        if self.scores is None:
            if self.logits_optim is None:
                raise LwdcError("a search by gradients trains the gates' logits: give strategy.logits_optim.")
            if self.gate(2).takes_one:
                raise LwdcError("gate=single_path learns nothing: choose another gate, or a strategy like random.")
        elif not self.gate(2).takes_one:
            raise LwdcError(
                "a search by scores trains one path a step, drawn evenly, whatever the gate: leave gate= out, which is "
                "then single_path."
            )
        for size in self.latency_batches:
            if not isinstance(size, int) or size < 1:
                raise LwdcError(f"latency_batches are batch sizes from 1 on, found {size!r}.")
        for name in ("prior", "decide", "decide_from", "rest_from"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise LwdcError(f"strategy.{name} is a number, found {value!r}.")
        for name in ("decide_from", "rest_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise LwdcError(f"strategy.{name} is a share of the search in [0, 1], found {getattr(self, name)}.")
        for name, why in (("prior", "favour what keeps least"), ("decide", "reward indecision")):
            if getattr(self, name) < 0:
                raise LwdcError(f"strategy.{name} must not be negative, found {getattr(self, name)}: it would {why}.")
        if not isinstance(self.recalibrate_batches, int) or self.recalibrate_batches < 0:
            raise LwdcError(
                f"strategy.recalibrate_batches is a number of batches from 0 on, found {self.recalibrate_batches!r}."
            )
        if self.weights not in (known := get_args(Weights)):
            raise LwdcError(unknown_name("strategy.weights", str(self.weights), known))
        if not isinstance(self.refit_images, int) or self.refit_images < 0 or self.refit_images == 1:
            raise LwdcError(
                f"strategy.refit_images is a number of images, 2 or more, or 0 for none; found {self.refit_images!r}."
            )

    def check_choice(self) -> None:
        """Raises ``LwdcError`` where nothing would tell one architecture from another."""
        learnt = self.search.epochs > 0
        if self.scores is not None:  # evaluators but these may train what they score
            evaluator = self.scores.evaluators[self.scores.evaluator]
            learnt = learnt or not isinstance(evaluator, Refitted | SharedWeights)
        if not learnt and not self.inherit:
            raise LwdcError(
                "strategy.epochs=0 with strategy.inherit=false leaves nothing to choose by, neither training nor the "
                "trained layers: let operators inherit, or search for an epoch or more."
            )
