"""Counting by hand and by lwdc."""

from typing import Any

import pytest
import torch
from torch import nn

from lwdc import counting
from lwdc.counting import count_macs, count_params


@pytest.mark.parametrize(
    ("module", "shape", "macs", "params"),
    [
        (nn.Conv2d(8, 16, 3, stride=2, padding=1), (8, 32, 32), 16 * 16 * 16 * 8 * 9, 16 * 8 * 9 + 16),
        (nn.Conv2d(8, 16, (1, 3), groups=4), (8, 5, 7), 16 * 5 * 5 * 2 * 3, 16 * 2 * 3 + 16),
        (nn.Conv1d(4, 6, 3, bias=False), (4, 10), 6 * 8 * 4 * 3, 6 * 4 * 3),
        (nn.Linear(10, 3), (10,), 30, 33),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)), (4, 8, 8), 0, 8),
    ],
)
def test_counts_are_those_of_textbooks(module: nn.Module, shape: Any, macs: int, params: int) -> None:
    assert count_macs(module, [shape]) == macs
    assert count_params(module) == params


def test_every_use_counts_and_every_weight_once() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    shapes = [(4, 8, 8), (4, 6, 6)]
    assert count_macs(conv, shapes) == (64 + 36) * 4 * 4 * 9
    assert count_macs(nn.Sequential(conv, conv), shapes[:1]) == 2 * 64 * 4 * 4 * 9
    assert count_params(nn.Sequential(conv, conv)) == 4 * 4 * 9


def test_large_networks_are_counted_exactly_and_nothing_is_computed() -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).train()
    assert count_macs(module, [(1, 99_999, 100_003)]) == 99_999 * 100_003  # beyond float32, and 40 GB
    assert module.training and module[1].training
    assert int(module[1].num_batches_tracked) == 0


def test_modules_on_the_meta_device_can_be_counted() -> None:
    with torch.device("meta"):
        module = nn.Conv2d(4, 4, 3, bias=False)
    assert count_macs(module, [(4, 8, 8)]) == 36 * 4 * 4 * 9


def test_layers_that_are_alike_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[nn.Module] = []
    count = counting._counted

    def counting_once(module: nn.Module, shape: Any) -> Any:
        counted.append(module)
        return count(module, shape)

    monkeypatch.setattr(counting, "_counted", counting_once)
    monkeypatch.setattr(counting, "_known", {})
    first, second, hooked, halved, own = (nn.Conv2d(4, 4, 3, bias=False) for _ in range(5))
    hooked.register_forward_hook(lambda *_: None)
    halved.weight = nn.Parameter(halved.weight.detach()[:2])
    own.forward = lambda x: x  # type: ignore[method-assign]
    whole = 36 * 4 * 4 * 9
    layers = [first, second, hooked, halved, own]
    assert [count_macs(layer, [(4, 8, 8)]) for layer in layers] == [whole, whole, whole, whole // 2, 0]
    assert counted == [first, hooked, halved, own]
