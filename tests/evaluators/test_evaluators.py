"""Evaluators: accuracies that hang on the architecture alone, and leave everything as it was."""

import copy
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.candidates.sampling import Starts
from lwdc.data import Batch, Digits
from lwdc.errors import DataError, LwdcError
from lwdc.evaluators import (
    Evaluator,
    FineTuned,
    FromScratch,
    Refitted,
    SharedWeights,
    Subject,
    evaluate,
    evaluate_all,
    fingerprint,
    identity,
)
from lwdc.evaluators.fine_tuned import train
from lwdc.gates import SinglePath
from lwdc.objectives import Distillation
from lwdc.pipeline.settings import ScoreSettings
from lwdc.proposers import RandomSearch
from lwdc.refitting import refit
from lwdc.selection import selection_ops
from lwdc.space import SearchSpace
from lwdc.surgery import discretise, point_at, wrap
from lwdc.training import Recipe, accuracy, recalibrate

SPACE = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "pointwise"}])
HALVES = [MixedPrecision("bf16-mixed", "cpu"), MixedPrecision("16-mixed", "cpu")]
EVALUATORS: list[Evaluator] = [SharedWeights(50, 1), Refitted(32, 50, 1), FineTuned(3, 50, 1), FromScratch(1, 50)]
every_evaluator = pytest.mark.parametrize("evaluator", EVALUATORS, ids=lambda e: type(e).__name__)


@pytest.fixture(scope="module")
def subject() -> Subject:
    data = Digits(limit_train=128, valid=100)
    data.prepare(torch.device("cpu"))
    backbone = Backbone("cifar_resnet8", 10, 1, {"channels": (4, 8, 8), "drop_rate": 0.1})
    torch.manual_seed(0)
    baseline = backbone.create()
    supernet = wrap(baseline, SPACE, SinglePath, (1, 8, 8))
    recipe = Recipe(9, 64, functools.partial(torch.optim.SGD, lr=0.05), objective=Distillation(), ema=0.9)
    return Subject(supernet, baseline, backbone.create, data, recipe, 0, Fabric(accelerator="cpu", devices=1))


def architecture(subject: Subject, index: int) -> Architecture:
    ops = selection_ops(subject.supernet)
    return Architecture({name: op.candidates[(index + i) % 3] for i, (name, op) in enumerate(ops.items())})


def test_epitomes_are_scored_with_windows_that_are_whole(subject: Subject) -> None:
    """However few of an epoch's steps they were trained for: so they are in the end."""
    supernet = wrap(subject.baseline, SearchSpace([{"op": "epitome", "ratio": 4}]), SinglePath, (1, 8, 8))
    network, _ = discretise(supernet)
    starts = [module for module in network.modules() if isinstance(module, Starts) and module.learned]
    assert starts and not any(bool(module.frozen) for module in starts)
    train(network, subject, 3, seed=0)
    assert all(bool(module.frozen) for module in starts)


def states(subject: Subject) -> dict[str, Any]:
    found = {**subject.supernet.state_dict(prefix="s."), **subject.baseline.state_dict(prefix="b.")}
    return {name: value.clone() for name, value in found.items()}


@every_evaluator
def test_what_was_evaluated_before_changes_nothing(evaluator: Evaluator, subject: Subject) -> None:
    before = states(subject)
    first, second = (architecture(subject, index) for index in (0, 1))
    found = [evaluate(evaluator, subject, a).accuracy for a in (first, second)]
    torch.manual_seed(7)
    again = [evaluate(evaluator, subject, a).accuracy for a in (second, first)]
    assert found == again[::-1] and None not in found
    after = states(subject)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.requires_grad for p in subject.baseline.parameters())


def test_no_more_of_the_validation_split_is_read_than_is_asked_for(subject: Subject) -> None:
    read = []

    class Counting(Digits):
        def batches(self, *args: Any, **options: Any) -> Iterator[Batch]:
            for batch in super().batches(*args, **options):
                read.append(len(batch[1]))
                yield batch

    data = Counting(limit_train=128, valid=100)
    data.prepare(torch.device("cpu"))
    recipe = dataclasses.replace(subject.recipe, batch_size=20)
    counted = dataclasses.replace(subject, data=data, recipe=recipe)
    assert [len(labels) for _, labels in counted.held_out(40)] == read == [20, 20]
    assert [len(labels) for _, labels in counted.held_out(50)] == [20, 20, 10]
    assert [len(labels) for _, labels in counted.held_out(None)] == [20] * 5


def test_shared_weights_score_the_discretised_network_with_its_norms_re_estimated(subject: Subject) -> None:
    chosen = architecture(subject, 1)
    network, _ = discretise(subject.supernet, chosen)
    recalibrate(network, subject.train_batches(2, 5), 2)
    assert SharedWeights(60, 2)(subject, chosen, 5) == accuracy(network, subject.held_out(60))
    pointed = copy.deepcopy(subject.supernet)
    point_at(pointed, chosen)
    recalibrate(pointed, subject.train_batches(2, 5), 2)
    assert accuracy(pointed, subject.held_out(60)) == pytest.approx(accuracy(network, subject.held_out(60)), abs=0.02)
    assert sum(len(labels) for _, labels in subject.held_out(60)) == 60
    assert sum(len(labels) for _, labels in subject.held_out(None)) == 100


def test_refitted_gives_at_every_site_what_the_original_network_gives(subject: Subject) -> None:
    chosen = architecture(subject, 1)
    network, _ = discretise(subject.supernet, chosen)
    examples = torch.cat([images for images, _ in subject.train_batches(2, 5)])
    refit(network, subject.baseline, chosen, examples[:100])
    recalibrate(network, subject.train_batches(1, 5), 1, subject.fabric)
    found = Refitted(100, 60, 1)(subject, chosen, 5)
    assert found == accuracy(network, subject.held_out(60), subject.fabric)


@dataclasses.dataclass(frozen=True)
class Fails:
    """Raises, or gives, what it is told to."""

    outcome: Any

    def __call__(self, subject: Subject, architecture: Architecture, seed: int) -> float:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (RuntimeError("out of\nmemory"), "out of memory"),
        (LwdcError("no"), "no"),
        (RuntimeError(), "RuntimeError"),
        (float("nan"), "the accuracy is nan; an accuracy is a share in [0, 1]"),
        (None, "the accuracy is None; an accuracy is a share in [0, 1]"),
        (87.5, "the accuracy is 87.5; an accuracy is a share in [0, 1]"),
    ],
)
def test_a_failure_is_an_evaluation_with_its_reason(subject: Subject, outcome: Any, reason: str) -> None:
    found = evaluate(Fails(outcome), subject, architecture(subject, 0))
    assert (found.accuracy, found.error) == (None, reason)


@pytest.mark.parametrize("outcome", [KeyboardInterrupt(), DataError("unreadable"), AttributeError("a mistake")])
def test_what_is_no_fault_of_the_architecture_is_raised(subject: Subject, outcome: BaseException) -> None:
    with pytest.raises(type(outcome)):
        evaluate(Fails(outcome), subject, architecture(subject, 0))


class Plain:
    """No dataclass: its repr is where it lies in memory."""

    def __call__(self, subject: Subject, architecture: Architecture, seed: int) -> float:
        return 0.5


@dataclasses.dataclass(frozen=True)
class Mine(SharedWeights):
    """Alike in its options, and another evaluator."""


def test_an_evaluator_is_told_by_its_class_and_options(subject: Subject) -> None:
    mine, other = Mine(50), dataclasses.make_dataclass("Mine", [], bases=(Mine,), frozen=True)(50)
    assert repr(mine) == repr(other)
    assert len({fingerprint(each, subject) for each in (mine, other, Mine(51))}) == 3
    assert identity(SharedWeights(50)) == repr(SharedWeights(50))  # as recorded by earlier versions
    with pytest.raises(LwdcError, match="make it a frozen dataclass"):
        fingerprint(Plain(), subject)
    with pytest.raises(LwdcError, match="make it a frozen dataclass"):
        ScoreSettings(RandomSearch, {"plain": Plain()}, "plain")


def test_a_fingerprint_tells_options_weights_data_and_seed_apart(subject: Subject) -> None:
    own = fingerprint(SharedWeights(50), subject)
    assert own == fingerprint(SharedWeights(50), subject)
    other = wrap(subject.baseline, SPACE, SinglePath, (1, 8, 8))
    next(other.parameters()).data.add_(1e-3)
    data = Digits(limit_train=128, valid=100, split_seed=1)
    data.prepare(torch.device("cpu"))
    baseline = copy.deepcopy(subject.baseline)
    baseline.act1 = nn.GELU()
    others = [
        fingerprint(SharedWeights(51), subject),
        *(
            fingerprint(SharedWeights(50), dataclasses.replace(subject, **change))
            for change in (
                {"supernet": other},
                {"baseline": baseline},
                {"data": data},
                {"seed": 1},
                *({"fabric": Fabric(accelerator="cpu", devices=1, plugins=[half])} for half in HALVES),
            )
        ),
    ]
    assert len({own, *others}) == 8


@pytest.mark.parametrize("options", [{"images": 0}, {"images": 1.5}, {"batches": -1}, {"batches": True}])
def test_options_that_say_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(LwdcError, match=r"an evaluator's (images|batches) is a number from"):
        SharedWeights(**options)


def test_a_refit_takes_two_examples() -> None:
    with pytest.raises(LwdcError, match="on two examples or more, found 1"):
        Refitted(examples=1)


@pytest.mark.long  # processes that import PyTorch anew
def test_several_at_a_time_find_what_one_after_the_other_do(subject: Subject) -> None:
    asked = [architecture(subject, index) for index in range(3)]
    alone, beside = ([e.accuracy for e in evaluate_all(EVALUATORS[0], subject, asked, jobs)] for jobs in (1, 2))
    assert alone == beside and None not in alone
