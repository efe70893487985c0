"""The fit loop: one for every phase, resumable after any step."""

import copy
import io
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.candidates.sampling import Starts, starts_of
from lwdc.data import Digits
from lwdc.errors import CheckpointError, DataError, TrainingError
from lwdc.objectives import CrossEntropy, Distillation
from lwdc.records import EpochRecord
from lwdc.surgery import rebuild
from lwdc.training import Fit, Plain, StepRecord, accuracy
from lwdc.training.average import Average
from lwdc.training.fit import derive_seed

MakeFit = Callable[..., Fit]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def saved(fit: Fit) -> dict[str, Any]:
    """The state as a checkpoint would hold it."""
    file = io.BytesIO()
    torch.save(fit.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


def figures(records: list[Any]) -> list[tuple[Any, ...]]:
    """What of the records does not depend on the clock."""
    epochs = [record for record in records if isinstance(record, EpochRecord)]
    return [(e.phase, e.epoch, e.step, e.loss, e.train_accuracy, e.valid_accuracy, e.learning_rate) for e in epochs]


def test_a_fit_learns(fit: MakeFit, network: nn.Module) -> None:
    records = list(fit(network, recipe={"epochs": 12}).run())
    epochs = [record for record in records if isinstance(record, EpochRecord)]
    assert epochs[-1].loss < 0.8 * epochs[0].loss
    assert epochs[-1].valid_accuracy > 0.6


def test_every_step_is_told_and_every_epoch_closed(fit: MakeFit, network: nn.Module) -> None:
    kinds = [
        (r.epoch, r.step) if isinstance(r, StepRecord) else ("end", r.epoch, r.step)
        for r in fit(network).run()
        if isinstance(r, StepRecord | EpochRecord)
    ]
    assert kinds == [(1, 1), (1, 2), (1, 3), ("end", 1, 3), (2, 1), (2, 2), (2, 3), ("end", 2, 6)]


def test_an_epoch_record_holds_the_means_of_its_steps(fit: MakeFit, network: nn.Module, data: Digits) -> None:
    records = list(fit(network).run())
    losses = [r.loss for r in records[:3]]
    epoch = records[3]
    assert isinstance(epoch, EpochRecord)
    assert epoch.loss == pytest.approx(sum(losses) / 3)
    assert epoch.epochs == 2 and epoch.search is None and epoch.seconds > 0
    final = records[-1]
    assert isinstance(final, EpochRecord)
    assert final.valid_accuracy == accuracy(network, data.batches("valid", 7))


def test_the_learning_rate_follows_the_schedule_at_every_step(fit: MakeFit, network: nn.Module) -> None:
    running = fit(network)
    rates = [running._optimisers[0].param_groups[0]["lr"] for r in running.run() if isinstance(r, StepRecord)]
    assert rates == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(1, 7)], abs=1e-7)


def test_a_fit_of_no_epochs_changes_nothing(fit: MakeFit, network: nn.Module) -> None:
    before = weights(network)
    assert list(fit(network, recipe={"epochs": 0}).run()) == []
    assert same(before, weights(network))


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(fit: MakeFit, network: nn.Module) -> None:
    copies = [copy.deepcopy(network) for _ in range(3)]
    for model, seed in zip(copies, (0, 0, 1), strict=True):
        torch.rand(seed + 1)  # what was drawn before must not matter
        list(fit(model, seed=seed).run())
    first, again, other = (weights(model) for model in copies)
    assert same(first, again) and not same(first, other)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(1, 8), max_size=2).map(sorted))
def test_a_fit_goes_on_bit_for_bit_after_any_record(fit: MakeFit, network: nn.Module, stops: list[int]) -> None:
    """Six steps and two ends of epochs: eight places to stop at, also twice."""
    straight = copy.deepcopy(network)
    expected = list(fit(straight).run())

    model, running, records = copy.deepcopy(network), None, []
    for stop in [*stops, 8]:
        state = saved(running) if running is not None else None
        model = copy.deepcopy(network)
        running = fit(model)
        if state is not None:
            running.load_state_dict(state)
        torch.rand(7)
        records += itertools.islice(running.run(), stop - len(records))
    assert same(weights(straight), weights(model))
    assert figures(records) == figures(expected)
    assert len(records) == 8


def test_going_on_from_a_finished_fit_does_nothing(fit: MakeFit, network: nn.Module) -> None:
    done = fit(network)
    list(done.run())
    again = fit(copy.deepcopy(network))
    again.load_state_dict(saved(done))
    assert list(again.run()) == []


class Bad(nn.Module):
    """A network whose logits are not finite from the call ``at`` on."""

    def __init__(self, inner: nn.Module, at: int, value: float) -> None:
        super().__init__()
        self.inner, self.calls, self.at, self.value = inner, 0, at, value

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return self.inner(x) * (self.value if self.training and self.calls >= self.at else 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_step(fit: MakeFit, network: nn.Module, value: float) -> None:
    running = fit(Bad(network, 4, value), phase="search").run()
    told: list[Any] = []
    with pytest.raises(
        TrainingError, match=r"the loss of phase 'search' is nan at step 4 of 6\. Lower the learning rate"
    ):
        for record in running:
            told.append(record)
    assert len(told) == 4  # three steps and the end of their epoch: none of them is the bad one


def test_a_state_after_a_loss_that_is_not_finite_is_refused_where_no_one_looked_yet(
    fit: MakeFit, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the loss is read every few steps only, and a checkpoint may be due in between."""
    monkeypatch.setattr(Fit, "_look_at_loss", lambda fit, loss: None)
    running = fit(Bad(network, 2, math.nan))
    records = running.run()
    next(records)
    running.state_dict()
    next(records)
    with pytest.raises(TrainingError, match="is nan at step 2 of 6"):
        running.state_dict()


class Spikes(nn.Module):
    """Training calls, counted from 1, whose logits or whose gradient are not finite; the loss of the latter is."""

    def __init__(self, inner: nn.Module, *, logits: tuple[int, ...] = (), gradient: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.inner, self.calls, self.logits, self.gradient = inner, 0, logits, gradient

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        if self.training and self.calls in self.logits:
            x = x * math.nan  # through batch norm, whose statistics it would spoil
        y = self.inner(x)
        if self.training and self.calls in self.gradient:
            y.register_hook(lambda gradient: gradient * math.inf)
        return y


@pytest.mark.parametrize("spikes", [{"logits": (2,)}, {"gradient": (2,)}])
def test_a_step_that_is_skipped_changes_nothing_and_is_counted(
    fit: MakeFit, network: nn.Module, spikes: dict[str, tuple[int, ...]]
) -> None:
    records, states = [], []
    model = Spikes(network, **spikes)
    for record in fit(model, recipe={"nonfinite": "skip", "clip_norm": 1.0}).run():
        records.append(record)
        states.append(weights(model))
    assert same(states[0], states[1]) and not same(states[1], states[2])
    epochs = [record for record in records if isinstance(record, EpochRecord)]
    assert [epoch.skipped for epoch in epochs] == [1, 0]
    losses = [r.loss for r in records[:3]]
    assert losses[1] is None
    assert epochs[0].loss == pytest.approx((losses[0] + losses[2]) / 2)
    assert 0 < epochs[0].train_accuracy <= 1


def test_a_fit_goes_on_bit_for_bit_after_a_step_that_was_skipped(fit: MakeFit, network: nn.Module) -> None:
    twin, again = copy.deepcopy(network), copy.deepcopy(network)
    expected = list(fit(Spikes(twin, logits=(2,)), recipe={"nonfinite": "skip"}).run())
    first = fit(Spikes(network, logits=(2,)), recipe={"nonfinite": "skip"})
    records = list(itertools.islice(first.run(), 2))
    rest = fit(Spikes(again), recipe={"nonfinite": "skip"})
    rest.load_state_dict(saved(first))
    records += rest.run()
    assert same(weights(twin), weights(again))
    assert figures(records) == figures(expected)
    assert [r.skipped for r in records if isinstance(r, EpochRecord)] == [1, 0]


def test_an_epoch_that_is_skipped_for_more_than_half_stops(fit: MakeFit, network: nn.Module) -> None:
    running = fit(Spikes(network, gradient=(1, 3)), recipe={"nonfinite": "skip"})
    with pytest.raises(
        TrainingError, match=r"at step 3 of 6 of phase 'baseline', 2 of the 3 steps of the epoch have been skipped"
    ):
        list(running.run())


@pytest.mark.parametrize("clip", [None, 1.0])
def test_no_state_holds_weights_that_are_not_finite(fit: MakeFit, network: nn.Module, clip: float | None) -> None:
    """The loss tells of a gradient one step later, and a checkpoint may be due before."""
    running = fit(Spikes(network, gradient=(2,)), recipe={"clip_norm": clip})
    records = running.run()
    next(records)
    running.state_dict()
    next(records)
    with pytest.raises(TrainingError, match=r"the weights 'inner.0.weight' of phase 'baseline' are not finite after "):
        running.state_dict()
    with pytest.raises(TrainingError, match="the loss of phase 'baseline' is nan at step 3 of 6"):
        next(records)


def test_the_teacher_is_frozen_and_only_listened_to(fit: MakeFit, network: nn.Module) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10)).train()
    before = weights(teacher)
    list(fit(network, teacher=teacher, recipe={"objective": Distillation()}).run())
    assert same(before, weights(teacher))
    assert not teacher.training
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())


def test_distillation_without_a_teacher_is_refused(fit: MakeFit, network: nn.Module) -> None:
    with pytest.raises(TrainingError, match="the objective of phase 'finetune' needs a teacher"):
        fit(network, phase="finetune", recipe={"objective": Distillation()})


def test_clipping_bounds_the_step(fit: MakeFit, network: nn.Module) -> None:
    before = weights(network)
    still = {"clip_norm": 1e-6, "optim": lambda parameters: torch.optim.SGD(parameters, lr=1.0)}
    list(fit(network, recipe=still).run())
    moved = sum(float((p.detach() - before[name]).norm()) ** 2 for name, p in network.named_parameters())
    assert 0 < math.sqrt(moved) < 6e-6


def test_only_the_parameters_given_are_trained(fit: MakeFit, network: nn.Module) -> None:
    before = weights(network)
    list(fit(network, parameters=list(network[5].parameters())).run())
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"5.weight", "5.bias"}


class Diary(Plain):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.extra = nn.Parameter(torch.ones(()))

    def optimisers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD([self.extra], lr=0.5)]

    def begin(self, progress: float) -> None:
        self.entries.append(progress)

    def extra_loss(self) -> Tensor | None:
        return self.extra

    def after_backward(self) -> None:
        self.entries.append(float(self.extra.grad))  # type: ignore[arg-type]

    def end(self) -> None:
        self.entries.append(-1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"count": len(self.entries)}


def test_a_lesson_is_asked_in_turn_and_its_optimiser_steps(fit: MakeFit, network: nn.Module) -> None:
    diary = Diary()
    list(fit(network, lesson=diary).run())
    expected: Iterator[float] = itertools.chain.from_iterable((step / 6, 1.0, -1.0) for step in range(6))
    assert diary.entries == pytest.approx(list(expected))
    assert float(diary.extra.detach()) == pytest.approx(1 - 6 * 0.5)


def test_a_checkpoint_of_another_phase_or_network_is_refused(fit: MakeFit, network: nn.Module) -> None:
    running = fit(network)
    next(iter(running.run()))
    state = saved(running)
    with pytest.raises(CheckpointError, match="does not fit phase 'finetune' of this run: it is of phase 'baseline'"):
        fit(copy.deepcopy(network), phase="finetune").load_state_dict(state)
    with pytest.raises(CheckpointError, match="does not fit phase 'baseline' of this run"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))).load_state_dict(state)
    with pytest.raises(CheckpointError, match="does not fit phase 'baseline' of this run: 'optimisers'"):
        fit(network).load_state_dict({key: value for key, value in state.items() if key != "optimisers"})


def test_seeds_of_steps_differ_and_repeat() -> None:
    drawn = {derive_seed(seed, phase, step) for seed in range(5) for phase in ("a", "b") for step in range(50)}
    assert len(drawn) == 500
    assert derive_seed(1, "search", 2) == derive_seed(1, "search", 2)
    assert all(0 <= seed < 2**63 for seed in drawn)


def test_starts_of_epitomes_train_on_their_own_end_whole_and_go_on_after_any_step(fit: MakeFit) -> None:
    """In a network built from an architecture, with no search around it."""
    plain = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, 10),
    )  # fmt: skip
    network = rebuild(plain, Architecture({"2": {"op": "epitome", "ratio": 3}}), (1, 8, 8))
    share, _ = starts_of(network)
    before, twin = share.detach().clone(), copy.deepcopy(network)
    running = fit(network, recipe={"epochs": 4})  # 12 steps: frozen from the seventh on
    states, moved = [], []
    for record in running.run():
        if isinstance(record, StepRecord):
            states.append(saved(running))
            moved.append(not torch.equal(share, before))
    assert all(moved[:6])
    for starts in (module for module in network.modules() if isinstance(module, Starts)):
        assert bool(starts.frozen)
        torch.testing.assert_close(starts.share * starts.ranges, starts.settled.float())
    assert len(running._optimisers) == 2
    assert running._optimisers[1].param_groups[0]["weight_decay"] == 0
    for step in (3, 6, 7):
        again = copy.deepcopy(twin)
        going_on = fit(again, recipe={"epochs": 4})
        going_on.load_state_dict(states[step - 1])
        list(going_on.run())
        assert same(weights(again), weights(network))


def half(init_scale: float) -> Fabric:
    """Half precision with a scaled loss, on the CPU, where a user is refused it because it is slow."""
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=2)
    return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])


def test_half_precision_scales_the_loss_and_goes_on_with_the_scale(fit: MakeFit, network: nn.Module) -> None:
    full, straight = copy.deepcopy(network), copy.deepcopy(network)
    list(fit(full).run())
    expected = list(fit(straight, fabric=half(2.0**10)).run())
    theirs = dict(full.named_parameters())
    assert all(torch.allclose(p, theirs[name], atol=1e-2) for name, p in straight.named_parameters())

    model = copy.deepcopy(network)
    running = fit(model, fabric=half(2.0**10))
    records = list(itertools.islice(running.run(), 5))
    state = saved(running)
    assert state["precision"]["scale"] == 2.0**12  # twice two steps in range
    model = copy.deepcopy(network)
    running = fit(model, fabric=half(2.0))
    running.load_state_dict(state)
    records += running.run()
    assert same(weights(straight), weights(model))
    assert figures(records) == figures(expected)


def test_a_step_that_overflows_in_half_precision_is_left_out_and_the_scale_halved(
    fit: MakeFit, network: nn.Module
) -> None:
    before = weights(network)
    running = fit(network, fabric=half(2.0**40))
    next(iter(running.run()))
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    assert saved(running)["precision"]["scale"] == 2.0**39


def test_all_optimisers_of_a_step_are_scaled_alike(fit: MakeFit, network: nn.Module) -> None:
    """The scale grows between steps, never between the weights' and the lesson's optimiser."""
    diary = Diary()
    list(fit(network, lesson=diary, fabric=half(2.0**8)).run())
    assert float(diary.extra.detach()) == pytest.approx(1 - 6 * 0.5)


def test_an_average_of_the_weights_is_evaluated_and_kept(fit: MakeFit, network: nn.Module, data: Digits) -> None:
    decay, seen = 0.9, copy.deepcopy(network)
    average = weights(network)
    for record in fit(seen).run():
        if isinstance(record, StepRecord):
            for name, value in seen.named_parameters():
                average[name] = decay * average[name] + (1 - decay) * value.detach()
    running = fit(network, recipe={"ema": decay})
    records = list(running.run())
    assert all(torch.allclose(p, average[name], atol=1e-6) for name, p in network.named_parameters())
    assert records[-1].valid_accuracy == accuracy(network, data.batches("valid", 64))


def test_the_average_of_a_layer_held_twice_is_that_of_one(fit: MakeFit, network: nn.Module) -> None:
    class Twice(nn.Module):
        def __init__(self, layers: nn.Sequential) -> None:
            super().__init__()
            self.layers, self.head = layers, layers[-1]
            self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    alike = Twice(copy.deepcopy(network))
    for model in (network, alike):
        list(fit(model, recipe={"ema": 0.9}).run())
    assert same(weights(alike.layers), weights(network))
    average = Average(alike, 0.9)
    average.update(alike)
    assert torch.equal(average.module.mask, alike.mask)


@pytest.mark.parametrize("stop", [2, 4, 8])
def test_an_average_of_the_weights_goes_on_bit_for_bit(fit: MakeFit, network: nn.Module, stop: int) -> None:
    straight, model = copy.deepcopy(network), copy.deepcopy(network)
    expected = list(fit(straight, recipe={"ema": 0.5}).run())
    running = fit(model, recipe={"ema": 0.5})
    records = list(itertools.islice(running.run(), stop))
    state = saved(running)
    running = fit(network, recipe={"ema": 0.5})
    running.load_state_dict(state)
    records += running.run()
    assert same(weights(network), weights(straight))
    assert figures(records) == figures(expected)


@pytest.mark.parametrize("ema", [0, 1, 1.5, "0.9"])
def test_a_decay_that_is_none_is_refused(fit: MakeFit, network: nn.Module, ema: Any) -> None:
    with pytest.raises(TrainingError, match="ema is a decay between 0 and 1"):
        fit(network, recipe={"ema": ema})


def test_every_phase_begins_with_the_same_scale_of_the_loss(fit: MakeFit, network: nn.Module) -> None:
    """So one that is resumed at its beginning does, too."""
    fabric = half(2.0**40)
    scaler: Any = fabric.strategy.precision.scaler
    list(fit(network, fabric=fabric).run())
    assert scaler.get_scale() < 2.0**40
    fit(network, phase="finetune", fabric=fabric)
    assert scaler.get_scale() == 2.0**40


def test_a_network_with_nothing_to_train_is_refused(fit: MakeFit, network: nn.Module) -> None:
    with pytest.raises(TrainingError, match="phase 'baseline' has nothing to train"):
        fit(network.requires_grad_(False))


def test_data_that_gives_fewer_batches_than_it_says_ends_training(
    fit: MakeFit, network: nn.Module, data: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = data.train
    monkeypatch.setattr(data, "train", lambda **asked: itertools.islice(whole(**asked), 2))
    with pytest.raises(DataError, match="gave 2 batches of 3 in epoch 1 of phase 'baseline'"):
        list(itertools.islice(fit(network).run(), 20))


def test_an_average_beside_a_lesson_is_refused(fit: MakeFit, network: nn.Module) -> None:
    with pytest.raises(TrainingError, match="phase 'search' cannot average weights: its lesson knows another network"):
        fit(network, phase="search", recipe={"ema": 0.9}, lesson=Diary())


def test_mixed_images_have_mixed_labels_which_the_step_decides(fit: MakeFit, network: nn.Module) -> None:
    """Each image once more in the picture of its partner, the last of the batch for the first."""
    given: list[tuple[Tensor, Tensor]] = []

    def objective(logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        given.append((images[-1], labels))
        return CrossEntropy()(logits, labels, teacher)

    objective.needs_teacher = False  # type: ignore[attr-defined]
    images: list[Tensor] = []
    network[0].register_forward_pre_hook(lambda module, args: images.append(args[0]))
    for mixup in ({"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}, {}):
        next(iter(fit(copy.deepcopy(network), recipe={"mixup": mixup, "objective": objective}).run()))
    (mixed, soft), (cut, parts), (plain, labels) = given
    share = float(soft[0, labels[0]])
    assert 0 < share < 1 and labels[0] != labels[-1]
    assert torch.allclose(mixed, share * plain + (1 - share) * plain.flip(0), atol=1e-6)
    assert torch.allclose(parts.sum(1), torch.ones(64))
    assert ((cut == plain) | (cut == plain.flip(0))).all() and not torch.equal(cut, plain)

    copies = [copy.deepcopy(network) for _ in range(2)]
    for model in copies:
        np.random.rand(7)
        list(fit(model, recipe={"mixup": {"mixup_alpha": 1.0, "cutmix_alpha": 1.0}}).run())
    assert same(weights(copies[0]), weights(copies[1]))


@pytest.mark.parametrize(
    ("mixup", "size", "message"),
    [
        ({"mixup": 0.2}, 64, "is refused by timm.data.Mixup: .*unexpected keyword"),
        ({"mixup_alpha": 0.0, "cutmix_alpha": 0.0}, 64, "is refused by timm.data.Mixup: no alpha is above 0"),
        ({"mixup_alpha": 0.2}, 63, "batch_size=63 is not a multiple of 2"),
    ],
)
def test_mixing_that_cannot_be_is_refused(
    mixup: dict[str, float], size: int, message: str, fit: MakeFit, network: nn.Module
) -> None:
    with pytest.raises(TrainingError, match=message):
        fit(network, recipe={"mixup": mixup, "batch_size": size})


@pytest.mark.parametrize("pieces", [0, 1.5, 65])
def test_pieces_that_cannot_be_are_refused(pieces: Any, fit: MakeFit, network: nn.Module) -> None:
    with pytest.raises(TrainingError, match=r"accumulate is a number of pieces|a batch of 64 cannot be shared by one"):
        fit(network, recipe={"accumulate": pieces})
