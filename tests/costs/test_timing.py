"""Latency: measured, with the module left as it was."""

import time

import pytest
import torch
from torch import Tensor, nn

from lwdc.costs import measure_ms


class Sleeps(nn.Module):
    """Takes five milliseconds, but twenty at the first two uses."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        self.seen.append(x.shape)
        time.sleep(0.005 if len(self.seen) > 2 else 0.02)
        return x


def test_a_latency_is_the_median_after_a_warm_up() -> None:
    milliseconds = measure_ms(Sleeps(), [(3, 4, 4)], repeats=5)
    assert 5 <= milliseconds < 15


def test_every_input_runs_and_the_time_is_their_sum() -> None:
    module = Sleeps()
    milliseconds = measure_ms(module, [(3, 4, 4), (3, 2, 2)], batch=7, repeats=3)
    assert milliseconds >= 10
    assert set(module.seen) == {(7, 3, 4, 4), (7, 3, 2, 2)}


def test_the_time_allowed_ends_the_rounds() -> None:
    module = Sleeps()
    measure_ms(module, [(3, 4, 4)], repeats=1000, budget_s=0.1)
    assert len(module.seen) < 30


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_modes_and_statistics_are_left_as_they_were(dtype: torch.dtype) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).to(dtype).train()
    network[1].eval()
    statistics = network[1].running_mean.clone()
    assert measure_ms(network, [(3, 8, 8)], repeats=2) > 0
    assert [module.training for module in network] == [True, False, True]
    assert torch.equal(network[1].running_mean, statistics)


def test_modes_are_restored_after_a_failure() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3)).train()
    with pytest.raises(RuntimeError):
        measure_ms(network, [(5, 8, 8)])
    assert network[0].training


def test_a_module_without_weights_runs_on_the_device_given() -> None:
    seen = []
    pool = nn.AvgPool2d(2)
    pool.register_forward_hook(lambda module, args, output: seen.append(args[0].device.type))
    measure_ms(pool, [(3, 8, 8)], repeats=1, device=torch.device("cpu"))
    assert set(seen) == {"cpu"}
