"""Networks are timed in evaluation, and left as they were."""

import pytest
import torch
from torch import Tensor, nn

from lwdc.costs.timing import torch_run


def test_every_input_runs_as_often_as_asked_and_without_gradients() -> None:
    seen: list[tuple[int, ...]] = []

    class Sees(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training and not torch.is_grad_enabled()
            seen.append(tuple(x.shape))
            return x

    assert torch_run(Sees(), [torch.zeros(7, 3, 4, 4), torch.zeros(7, 3, 2, 2)])(2) > 0
    assert seen == [(7, 3, 4, 4), (7, 3, 2, 2)] * 2


def test_modes_and_statistics_are_left_as_they_were() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    network[1].eval()
    statistics = network[1].running_mean.clone()
    torch_run(network, [torch.ones(1, 3, 8, 8)])(2)
    assert [module.training for module in network] == [True, False, True]
    assert torch.equal(network[1].running_mean, statistics)


def test_modes_are_restored_after_a_failure() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3)).train()
    with pytest.raises(RuntimeError):
        torch_run(network, [torch.ones(1, 5, 8, 8)])(1)
    assert network[0].training
