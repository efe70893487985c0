"""Evaluation: accuracy, and batch norms that learn their statistics again."""

import pytest
import torch
from torch import Tensor, nn

from lwdc.training import accuracy, recalibrate

IMAGES = torch.eye(4)  # an identity network answers 0, 1, 2, 3


def test_accuracy_is_the_share_of_right_answers_over_unequal_batches() -> None:
    batches = [(IMAGES[:3], torch.tensor([0, 1, 3])), (IMAGES[3:], torch.tensor([3]))]
    assert accuracy(nn.Identity(), batches) == 0.75


def test_accuracy_of_nothing_is_zero() -> None:
    assert accuracy(nn.Identity(), []) == 0.0


def test_accuracy_leaves_evaluation_mode_and_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.99)).train()
    accuracy(model, [(IMAGES, torch.arange(4))])
    assert not model.training and not model[1].training
    assert model[0].weight.grad is None


def test_recalibration_gives_the_mean_over_the_batches() -> None:
    norm = nn.BatchNorm1d(2, momentum=0.3)
    norm.running_mean.fill_(100.0)
    batches = [(torch.randn(50, 2) + shift, torch.zeros(50)) for shift in (0.0, 1.0, 5.0)]
    recalibrate(norm, batches, most=2)
    means = torch.stack([images.mean(0) for images, _ in batches[:2]])
    variances = torch.stack([images.var(0) for images, _ in batches[:2]])
    assert torch.allclose(norm.running_mean, means.mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, variances.mean(0), atol=1e-6)
    assert norm.momentum == 0.3 and not norm.training


def test_recalibration_changes_no_weights() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = [p.detach().clone() for p in model.parameters()]
    recalibrate(model, [(torch.randn(4, 1, 5, 5), torch.zeros(4))], most=1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("most", [0, 1])
def test_recalibration_by_no_batch_keeps_the_statistics(most: int) -> None:
    model = nn.Sequential(nn.BatchNorm1d(2)) if most == 0 else nn.Sequential(nn.GroupNorm(1, 2))
    if most == 0:
        model[0].running_mean.fill_(3.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    recalibrate(model.train(), [(torch.randn(4, 2), torch.zeros(4))], most)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training


def test_recalibration_leaves_norms_that_see_nothing_as_they_are() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.used(x)
            return y

    model = Partly()
    for norm in (model.used, model.unused):
        norm.running_mean.fill_(7.0)
    recalibrate(model, [(torch.randn(50, 2), torch.zeros(50))], most=1)
    assert float(model.unused.running_mean.mean()) == 7.0 and float(model.used.running_mean.abs().max()) < 1
