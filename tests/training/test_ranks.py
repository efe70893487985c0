"""Several ranks train what one would have trained: the same weights, the same gates, the same figures."""

import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from lwdc.costs import CostTable, Macs, tabulate
from lwdc.data import WHOLE, Batch, Digits, Shard
from lwdc.gates import Gate, GumbelSoftmax, Independent, OneHot, ReinMax, Softmax
from lwdc.objectives import Distillation
from lwdc.records import EpochRecord
from lwdc.selection import selection_ops
from lwdc.space import SearchSpace
from lwdc.strategies import Dialled, FrontLesson, Held, JointLesson, add_dial, dial_of, search_fit
from lwdc.surgery import wrap
from lwdc.training import AS_IT_STANDS, Execution, Fit, Recipe
from lwdc.training.ranks import BUFFERS_LEFT

InRanks = Callable[..., list[Any]]

GATES: dict[str, Callable[[int], Gate]] = {
    "softmax": Softmax,
    "gumbel": GumbelSoftmax,
    "gumbel_hard": functools.partial(GumbelSoftmax, hard=True),
    "one_hot": OneHot,
    "reinmax": ReinMax,
    "independent": Independent,
}
CANDIDATES: list[Any] = [{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "separable_norm"}]
CANDIDATES += [{"op": "epitome", "ratio": 2}]
SGD = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)
ADAM = functools.partial(torch.optim.Adam, lr=0.1)
TOLERANCE = 1e-10


class Exact(Digits):
    """Digits in float64."""

    def train(
        self, *, seed: int, epoch: int, batch_size: int, start: int = 0, shard: Shard = WHOLE
    ) -> Iterator[Batch]:  # fmt: skip
        for images, labels in super().train(seed=seed, epoch=epoch, batch_size=batch_size, start=start, shard=shard):
            yield images.double(), labels

    def batches(self, split: str, batch_size: int, shard: Shard = WHOLE) -> Iterator[Batch]:
        for images, labels in super().batches(split, batch_size, shard):
            yield images.double(), labels


@functools.cache
def exact() -> Exact:
    """Ten batches of 64 an epoch; 101 examples for validation, an uneven number."""
    digits = Exact(crop_padding=1, limit_train=640, valid=101)
    digits.prepare(torch.device("cpu"))
    return digits


class Frozen(nn.BatchNorm2d):
    """A batch norm that keeps its statistics."""

    def train(self, mode: bool = True) -> "Frozen":
        del mode
        super().train(False)
        return self


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), Frozen(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), Frozen(8),
        nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(128, 10),
    ).double()  # fmt: skip


def supernet(gate: str, *, dial: bool = False, dropout: float = 0.0) -> nn.Module:
    """With frozen norms everywhere, in float64, and an epitome whose starts are learned."""
    made = wrap(network(dropout), SearchSpace(CANDIDATES), GATES[gate], (1, 8, 8))
    for module in made.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, Frozen(child.num_features))
    made = made.double()
    if dial:
        add_dial(made, tabulated(False), 0.9, 0.4, 3)
    return made


def fabric_of(ranks: int) -> Fabric:
    strategy: Any = DDPStrategy(find_unused_parameters=True, **BUFFERS_LEFT) if ranks > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=ranks, strategy=strategy)
    if ranks > 1:
        fabric.launch()
    return fabric


@functools.cache
def tabulated(dial: bool) -> CostTable:
    return tabulate(supernet("softmax", dial=dial), Macs())


def search(model: nn.Module, ranks: int, execution: Execution = AS_IT_STANDS, **changes: Any) -> Fit:
    """Two epochs of ten steps."""
    table = tabulated(has_dial(model))
    recipe = dataclasses.replace(Recipe(2, 64, SGD, objective=Distillation()), **changes)
    if has_dial(model):
        lesson: Any = FrontLesson(JointLesson(model, [Dialled(table, dial_of(model))], ADAM), table.total // 2)
    else:
        lesson = JointLesson(model, [Held(table, table.total // 2)], ADAM)
    fabric = fabric_of(ranks)
    return search_fit(model, exact(), recipe, lesson, seed=0, fabric=fabric, teacher=network(), execution=execution)


def has_dial(model: nn.Module) -> bool:
    return any(type(module).__name__ == "Dial" for module in model.modules())


def trained(fit: Fit) -> tuple[dict[str, Tensor], list[EpochRecord]]:
    records = [record for record in fit.run() if isinstance(record, EpochRecord)]
    return {name: value.clone() for name, value in fit.model.state_dict().items()}, records


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        difference = float((value.double() - theirs[name].double()).abs().max()) if value.numel() else 0.0
        assert difference <= TOLERANCE * max(1.0, float(value.double().abs().max())), (name, difference)


def figures(record: EpochRecord) -> list[float]:
    return [record.loss, record.train_accuracy, record.valid_accuracy, record.learning_rate]


QUICK = [("softmax", False), ("gumbel_hard", False), ("gumbel", True)]
OTHERS = [(gate, False) for gate in GATES] + [("softmax", True)]


@pytest.mark.parametrize(
    ("gate", "dial"), [*QUICK, *(pytest.param(*pair, marks=pytest.mark.long) for pair in OTHERS if pair not in QUICK)]
)
def test_two_ranks_search_as_one_does(gate: str, dial: bool, in_ranks: InRanks) -> None:
    """32 and 32 examples for 64, over 20 steps: weights, logits, dial and figures."""
    alone, records = trained(search(supernet(gate, dial=dial), 1))
    (first, told), (second, _) = in_ranks(2, lambda rank: trained(search(supernet(gate, dial=dial), 2)))
    assert any("logits" in name for name in alone)
    assert_same(first, alone)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    for ours, theirs in zip(told, records, strict=True):
        assert figures(ours) == pytest.approx(figures(theirs), abs=1e-10)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("execution", [Execution(channels_last=True, checkpointing=True), Execution(compile="eager")])
def test_two_ranks_search_as_one_does_however_networks_run(execution: Execution, in_ranks: InRanks) -> None:
    """With dropout nowhere: one rank alone runs as it stands."""
    alone, _ = trained(search(supernet("gumbel"), 1, epochs=1))
    (first, _), (second, _) = in_ranks(2, lambda rank: trained(search(supernet("gumbel"), 2, execution, epochs=1)))
    assert_same(first, alone)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_batch_that_cannot_be_halved_is_weighed_by_its_examples(in_ranks: InRanks) -> None:
    alone, records = trained(search(supernet("gumbel"), 1, batch_size=63, clip_norm=0.5))
    (first, told), _ = in_ranks(2, lambda rank: trained(search(supernet("gumbel"), 2, batch_size=63, clip_norm=0.5)))
    assert_same(first, alone)
    assert figures(told[-1]) == pytest.approx(figures(records[-1]), abs=1e-10)


@pytest.mark.long
def test_four_ranks_search_as_one_does(in_ranks: InRanks) -> None:
    alone, _ = trained(search(supernet("gumbel_hard"), 1, batch_size=62))
    for state, _ in in_ranks(4, lambda rank: trained(search(supernet("gumbel_hard"), 4, batch_size=62))):
        assert_same(state, alone)


@pytest.mark.parametrize("gate", ["softmax", "gumbel_hard"])
def test_a_batch_in_pieces_is_the_batch(gate: str) -> None:
    """Gradient accumulation, also into pieces of uneven size: with one sample of the gates for all of them."""
    whole, records = trained(search(supernet(gate), 1, clip_norm=0.5))
    pieces, told = trained(search(supernet(gate), 1, clip_norm=0.5, accumulate=3))
    assert_same(pieces, whole)
    assert figures(told[-1]) == pytest.approx(figures(records[-1]), abs=1e-10)


def test_two_ranks_in_pieces_are_one_rank(in_ranks: InRanks) -> None:
    alone, _ = trained(search(supernet("gumbel"), 1))
    (state, _), _ = in_ranks(2, lambda rank: trained(search(supernet("gumbel"), 2, accumulate=2)))
    assert_same(state, alone)


def test_ranks_and_pieces_share_the_gates_and_not_the_dropout(in_ranks: InRanks) -> None:
    def drawn(rank: int) -> tuple[list[Tensor], list[Tensor]]:
        model = supernet("gumbel", dropout=0.5)
        samples: list[Tensor] = []
        dropped: list[Tensor] = []
        op = next(iter(selection_ops(model).values()))
        model[6].register_forward_hook(lambda module, args, output: dropped.append((output == 0)[:16]))
        model[6].register_forward_hook(lambda module, args, output: samples.append(op.sampled))  # type: ignore[arg-type]
        fit = search(model, 2, accumulate=2)
        next(iter(fit.run()))
        return samples, dropped

    (samples, masks), (others, other_masks) = in_ranks(2, drawn)
    assert len(samples) == 2
    assert all(torch.equal(sample, samples[0]) for sample in [*samples, *others])
    for one, other in itertools.combinations([*masks, *other_masks], 2):
        assert not torch.equal(one, other)


@pytest.mark.parametrize("what", ["logits", "sampled"])
def test_gates_that_drift_apart_stop_every_rank_with_rank_and_site(what: str, in_ranks: InRanks) -> None:
    def drift(rank: int) -> str:
        model = supernet("softmax")
        fit = search(model, 2)
        for record in fit.run():
            assert not isinstance(record, EpochRecord)
            if rank == 1 and record.step == 10:
                op = selection_ops(model)["3"]
                value = op.gate.logits.data if what == "logits" else op.sampled
                assert value is not None
                value[0] += 1e-15
        return "came through"

    for told in in_ranks(2, drift, failing=True):
        assert told.startswith(
            "TrainingError: the gate of '3' on rank 1 is no longer that of rank 0, seen after epoch 1"
        )


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_search_goes_on_with_another_number_of_ranks(before: int, after: int, in_ranks: InRanks) -> None:
    """From the middle of an epoch, whose figures hold what the other ranks had seen, too."""

    def begun(rank: int) -> bytes:
        fit = search(supernet("gumbel"), before)
        list(itertools.islice(fit.run(), 14))
        file = io.BytesIO()
        torch.save(fit.state_dict(), file)
        return file.getvalue()

    def ended(rank: int) -> tuple[dict[str, Tensor], list[EpochRecord]]:
        fit = search(supernet("gumbel"), after)
        fit.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        return trained(fit)

    alone, records = trained(search(supernet("gumbel"), 1))
    state = in_ranks(before, begun)[0] if before > 1 else begun(0)
    found, told = in_ranks(after, ended)[0] if after > 1 else ended(0)
    assert_same(found, alone)
    assert figures(told[-1]) == pytest.approx(figures(records[-1]), abs=1e-10)


def test_batch_norms_of_all_ranks_end_with_the_statistics_of_the_first(in_ranks: InRanks) -> None:
    def end(rank: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)).double()
        return trained(Fit("baseline", model, exact(), Recipe(1, 64, SGD), seed=0, fabric=fabric_of(2)))[0]

    first, second = in_ranks(2, end)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_batch_with_fewer_examples_than_ranks_is_refused(in_ranks: InRanks) -> None:
    def refused(rank: int) -> None:
        search(supernet("softmax"), 2, batch_size=1)

    for told in in_ranks(2, refused, failing=True):
        assert told.startswith("TrainingError: a batch of 1 cannot be shared by 2 processes in 1 piece(s) each")
