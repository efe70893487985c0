"""WSNet: windows on one condensed filter, and the product map that computes with it."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lwdc.candidates import DoesNotFit, Operator, build
from lwdc.candidates.sampling import TiedConv, expand
from lwdc.candidates.wsnet import ProductMap
from lwdc.counting import count_macs, count_params
from lwdc.errors import SpaceError


def wsnet_at(at: Any, **options: Any) -> Any:
    operator = build({"op": "wsnet", **options}, at.site).double()
    operator.inherit(at.weight)
    return operator


def used(operator: Operator) -> Tensor:
    """How often every entry of the condensed filter is read."""
    (found,) = torch.autograd.grad(operator.compact_kernel().sum(), operator.epitome())  # type: ignore[operator]
    return found


def test_filters_are_windows_a_step_apart_and_channels_repeat(place: Any) -> None:
    at = place(nn.Conv1d(8, 6, 16), 40)
    operator = wsnet_at(at, step=3, repeat=4)
    condensed = operator.epitome()
    assert condensed.shape == (1, 2, 16 + 5 * 3)
    kernel = operator.kernel()
    for n in range(6):
        for m in range(8):
            assert torch.equal(kernel[n, m], condensed[0, m % 2, 3 * n : 3 * n + 16])


@given(
    k=st.integers(2, 24), filters=st.integers(2, 9), step=st.integers(1, 3), stride=st.integers(1, 4),
    dilation=st.integers(1, 3), padding=st.integers(0, 9), groups=st.sampled_from([1, 2]), more=st.integers(0, 13),
)  # fmt: skip
@settings(max_examples=60)
def test_the_product_map_is_the_convolution(
    k: int, filters: int, step: int, stride: int, dilation: int, padding: int, groups: int, more: int, place: Any
) -> None:
    conv = nn.Conv1d(
        4 * groups, filters * groups, k, stride=stride, dilation=dilation, padding=padding, groups=groups
    )  # fmt: skip
    at = place(conv, dilation * (k - 1) + 1 + more)
    try:
        operator = wsnet_at(at, step=step)
    except DoesNotFit:
        return
    tied = operator.conv
    shared = ProductMap(tied.site, tied.weight.detach(), tied.rows, tied.columns, list(tied.tap_starts)).eval()
    x = at.x.requires_grad_(True)
    wanted = nn.functional.conv1d(x, operator.kernel(), None, stride, padding, dilation, groups)
    y = shared(x)
    torch.testing.assert_close(y, wanted, rtol=1e-10, atol=1e-10)
    probe = torch.randn_like(y)
    got, want = (torch.autograd.grad((v * probe).sum(), x)[0] for v in (y, wanted))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_long_kernels_are_released_as_a_product_map_and_counted_so(place: Any) -> None:
    at = place(nn.Conv1d(8, 16, 32, stride=2, padding=16), 400)
    module = wsnet_at(at, step=2, repeat=2).release(at.bias)
    assert isinstance(module[-1], ProductMap)
    taps = 32 + 15 * 2
    assert count_macs(module, [(8, 400)]) == (400 + 32) * 4 * taps
    assert count_params(module) == 4 * taps + 16
    assert expand(module)[-1] is module[-1]  # other runtimes run it as it is


def test_a_product_map_in_training_is_the_same_function_and_keeps_no_map(place: Any) -> None:
    at = place(nn.Conv1d(8, 16, 32, padding=16), 400)
    module = wsnet_at(at, step=2).release(at.bias)
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = module.train()(at.x)
    with torch.no_grad():
        torch.testing.assert_close(y, module.eval()(at.x), rtol=1e-10, atol=1e-10)
    assert max(saved) < len(at.x) * (32 + 15 * 2) * 400  # taps of the condensed filter, times the length


def test_where_sharing_products_costs_more_the_kernel_is_formed(place: Any) -> None:
    at = place(nn.Conv1d(8, 4, 3, stride=4), 40)
    module = wsnet_at(at, step=2).release(at.bias)
    assert type(module[-1]) is TiedConv
    assert count_macs(module, [(8, 40)]) == 10 * 8 * 4 * 3


def test_planes_are_windows_on_a_grid_and_turns_of_the_ring_of_channels(place: Any) -> None:
    at = place(nn.Conv2d(8, 16, 3, padding=1), 7, 7)
    operator = wsnet_at(at, ratio=8)
    condensed = operator.epitome()[0]  # (8, high, wide)
    assert condensed.numel() * 8 <= at.conv.weight.numel()
    high, wide = ((n - 3) // 2 + 1 for n in condensed.shape[1:])
    turns = math.ceil(16 / (high * wide))
    kernel = operator.kernel()
    for n in range(16):
        turn, row, column = n // (high * wide), 2 * (n // wide % high), 2 * (n % wide)
        ring = condensed.roll(-(turn * 8 // turns), 0)
        assert torch.equal(kernel[n], ring[:, row : row + 3, column : column + 3])
    assert len(set(map(str, kernel.tolist()))) == 16  # no two filters are one


@pytest.mark.parametrize("ratio", [2, 4, 8, 16])
@pytest.mark.parametrize(
    ("conv", "sizes"),
    [
        (nn.Conv1d(16, 32, 1), (9,)),
        (nn.Conv1d(1, 48, 64, stride=2), (99,)),
        (nn.Conv1d(16, 32, 9, groups=2), (20,)),
        (nn.Conv2d(16, 32, 3), (5, 5)),
        (nn.Conv2d(16, 32, 1), (5, 5)),
        (nn.Conv2d(15, 33, (1, 5)), (5, 7)),
    ],
)
def test_a_ratio_is_kept_and_nothing_stored_is_idle(
    conv: nn.Module, sizes: tuple[int, ...], ratio: int, place: Any
) -> None:
    at = place(conv, *sizes)
    operator = wsnet_at(at, ratio=ratio)
    size = operator.epitome().numel()
    assert size * ratio <= at.conv.weight.numel()
    assert size * ratio >= at.conv.weight.numel() / 3  # and not far below
    assert bool((used(operator).amax(tuple(range(2, operator.epitome().dim()))) > 0).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_product_map_in_half_precision_is_as_near_as_the_convolution(dtype: torch.dtype, place: Any) -> None:
    at = place(nn.Conv1d(64, 128, 16), 200)
    operator = wsnet_at(at, step=4)
    with torch.no_grad():
        operator.epitome().add_(1)  # sums that grow along the taps
    tied, x = operator.conv.requires_grad_(False), at.x.abs()
    wanted = tied(x)
    errors = []
    for kind in (TiedConv, ProductMap):
        module = kind(tied.site, tied.weight.to(dtype), tied.rows, tied.columns, list(tied.tap_starts))
        module.eval().requires_grad_(False)
        y = module(x.to(dtype))
        assert y.dtype == dtype
        errors.append(float((y - wanted).norm() / wanted.norm()))
    assert errors[1] < 2 * errors[0]


def test_what_is_inherited_is_the_mean_and_no_change_is_nearer(place: Any) -> None:
    at = place(nn.Conv1d(7, 6, 5), 12)
    operator = wsnet_at(at, step=2, repeat=2)
    error = operator.inherit(at.weight)
    assert error < 1
    for scale in (1e-1, 1e-3):
        with torch.no_grad():
            before = operator.epitome().clone()
            operator.epitome().add_(scale * torch.randn_like(before))
            assert operator._error(at.weight) > error
            operator.epitome().copy_(before)
    assert operator.epitome()[0, 0, 0].item() == pytest.approx(at.weight[0, ::4, 0].mean().item())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either ratio, or step"),
        ({"ratio": 2, "step": 1}, "either ratio, or step"),
        ({"ratio": 2, "repeat": 2}, "repeat with step alone"),
        ({"ratio": 1}, "ratio must be above 1, found 1"),
        ({"ratio": 0.5}, r"above 1, found 0\.5"),
        ({"step": 0}, "at least 1, found step=0"),
        ({"step": 1, "repeat": 0}, "repeat=0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str, place: Any) -> None:
    with pytest.raises(SpaceError, match=message) as refusal:
        build({"op": "wsnet", **options}, place(nn.Conv1d(4, 4, 3), 8).site)
    assert not isinstance(refusal.value, DoesNotFit)


@pytest.mark.parametrize(
    ("conv", "options", "message"),
    [
        (nn.Conv1d(4, 4, 3), {"step": 4}, "4 apart leave entries that none of them reads"),
        (nn.Conv2d(4, 4, (3, 1)), {"step": 4}, "4 apart leave entries that none of them reads"),
        (nn.Conv1d(4, 4, 3), {"step": 3}, "4 x 12 is no smaller than the kernel's 48"),
        (nn.Conv1d(4, 4, 1), {"ratio": 9}, "9 times smaller"),
        (nn.Conv2d(4, 4, 3, groups=4), {"ratio": 2}, "2 times smaller"),
    ],
)
def test_where_it_cannot_stand_the_reason_is_said(
    conv: nn.Module, options: dict[str, Any], message: str, place: Any
) -> None:
    with pytest.raises(DoesNotFit, match=message):
        build({"op": "wsnet", **options}, place(conv, *[8] * (conv.weight.dim() - 2)).site)  # type: ignore[operator]


@pytest.mark.parametrize("ratio", [2, 4, 8, 16])
@pytest.mark.parametrize("kernel", [4, 16])
def test_a_ratio_along_a_line_is_met_closely(kernel: int, ratio: int, place: Any) -> None:
    at = place(nn.Conv1d(32, 64, kernel), 40)
    assert wsnet_at(at, ratio=ratio).epitome().numel() * ratio >= 0.9 * at.conv.weight.numel()
