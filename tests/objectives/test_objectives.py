"""Objectives, against sums written out by hand."""

import math

import pytest
import torch

from lwdc.errors import TrainingError
from lwdc.objectives import CrossEntropy, Distillation

LOGITS = torch.tensor([[math.log(0.7), math.log(0.2), math.log(0.1)], [math.log(0.25), math.log(0.5), math.log(0.25)]])
LABELS = torch.tensor([0, 2])
TEACHER = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])


def test_cross_entropy_is_the_mean_surprise_at_the_labels() -> None:
    assert float(CrossEntropy()(LOGITS, LABELS, None)) == pytest.approx(-(math.log(0.7) + math.log(0.25)) / 2)


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    at_labels = -(math.log(0.7) + math.log(0.25)) / 2
    everywhere = -(math.log(0.7 * 0.2 * 0.1) + math.log(0.25 * 0.5 * 0.25)) / 6
    smoothed = CrossEntropy(label_smoothing=0.3)(LOGITS, LABELS, None)
    assert float(smoothed) == pytest.approx(0.7 * at_labels + 0.3 * everywhere)


def test_distillation_is_the_softened_divergence_beside_the_cross_entropy() -> None:
    temperature, weight, divergence = 2.0, 0.6, 0.0
    for student, teacher in zip(LOGITS.tolist(), TEACHER.tolist(), strict=True):
        p = [math.exp(t / temperature) for t in teacher]
        q = [math.exp(s / temperature) for s in student]
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        divergence += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 2
    at_labels = -(math.log(0.7) + math.log(0.25)) / 2
    found = Distillation(weight, temperature)(LOGITS, LABELS, TEACHER)
    assert float(found) == pytest.approx((1 - weight) * at_labels + weight * temperature**2 * divergence)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn_from_it() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = Distillation(weight=1.0)(logits, LABELS, LOGITS)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6


def test_distillation_without_weight_is_cross_entropy() -> None:
    assert torch.equal(Distillation(weight=0.0)(LOGITS, LABELS, TEACHER), CrossEntropy()(LOGITS, LABELS, None))


def test_only_distillation_needs_a_teacher() -> None:
    assert Distillation().needs_teacher and not CrossEntropy().needs_teacher


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 2.0])
def test_label_smoothing_outside_of_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(TrainingError, match=rf"label_smoothing must lie in \[0, 1\), found {smoothing}"):
        CrossEntropy(smoothing)


@pytest.mark.parametrize(("weight", "temperature"), [(-0.1, 3.0), (1.1, 3.0), (0.5, 0.0), (0.5, -1.0)])
def test_distillation_outside_of_its_range_is_refused(weight: float, temperature: float) -> None:
    with pytest.raises(TrainingError, match=f"found {weight} and {temperature}"):
        Distillation(weight, temperature)
