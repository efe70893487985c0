"""Supports, padding and the site's convolution with another weight."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn

from lwdc.geometry import Pad, Support, centred_support, convolve, own_support, pad, pads_for, union
from lwdc.sites import same_padding


def _taps(support: Support, axis: int = 0) -> list[int]:
    return [support.start[axis] + support.step[axis] * i for i in range(support.count[axis])]


ONE_AXIS = st.builds(
    lambda start, step, count: Support((start,), (step,), (count,)),
    st.integers(-5, 5), st.integers(1, 4), st.integers(0, 5),
)  # fmt: skip


@given(supports=st.lists(ONE_AXIS, min_size=1, max_size=4).filter(lambda found: any(s.count[0] for s in found)))
@settings(max_examples=300)
def test_a_union_holds_every_tap_where_its_slices_say(supports: list[Support]) -> None:
    joint = union(supports)
    positions = _taps(joint)
    for support in supports:
        assert positions[joint.slices_of(support)[0]] == _taps(support)
    held = [tap for support in supports for tap in _taps(support)]
    assert (positions[0], positions[-1]) == (min(held), max(held))


def test_a_union_is_no_finer_than_it_must_be() -> None:
    assert union([Support((0,), (2,), (3,)), Support((2,), (7,), (1,))]) == Support((0,), (2,), (3,))
    assert union([Support((0,), (1,), (3,)), Support((-1,), (2,), (3,))]) == Support((-1,), (1,), (5,))
    assert union([Support((0,), (4,), (2,)), Support((2,), (6,), (2,))]) == Support((0,), (2,), (5,))


def test_supports_are_centred_and_lean_towards_the_first_tap(place: Any) -> None:
    site = place(nn.Conv2d(1, 1, (3, 4)), 8, 8).site
    assert centred_support(site, (1, 1), (1, 1)).start == (1, 1)
    assert centred_support(site, (5, 2), (1, 1)).start == (-1, 1)
    assert centred_support(site, (2, 2), (3, 1)).start == (-1, 1)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_that_grows_and_crops_at_once_reads_the_maps_own_border(mode: str) -> None:
    x = torch.arange(5.0).view(1, 1, 5)
    wanted = {
        "zeros": [2, 3, 4, 0, 0],
        "reflect": [2, 3, 4, 3, 2],
        "replicate": [2, 3, 4, 4, 4],
        "circular": [2, 3, 4, 0, 1],
    }
    assert pad(x, ((-2, 2),), mode).flatten().tolist() == wanted[mode]


def test_padding_fills_with_a_value_per_axis() -> None:
    assert pad(torch.zeros(1, 1, 1, 2), ((0, 1), (1, 0)), value=7.0)[0, 0].tolist() == [[7, 0, 0], [7, 7, 7]]
    x = torch.zeros(1, 1, 2, 2)
    assert pad(x, ((0, 0), (0, 0))) is x


@given(data=st.data())
@settings(max_examples=60)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_convolving_on_the_own_support_is_the_sites_convolution(data: st.DataObject, places: Any) -> None:
    at = data.draw(places)
    assume(not at.site.pools)
    y = convolve(at.x, at.plain.weight, at.plain.bias, at.site, own_support(at.site), at.site.groups)
    torch.testing.assert_close(y, at.plain(at.x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (2, 1, 1), (5, 3, 1), (3, 2, 2), (1, 2, 1)])
def test_same_padding_is_timms(size: int, kernel: int, stride: int, dilation: int) -> None:
    conv = Conv2dSame(1, 1, kernel, stride=stride, dilation=dilation, bias=False)
    x = torch.randn(1, 1, size, size + 1)
    padded = pad(x, same_padding(conv, (size, size + 1)))
    torch.testing.assert_close(F.conv2d(padded, conv.weight, None, stride, 0, dilation), conv(x))


def test_a_pad_module_pads_only_the_axes_asked_for_and_says_how(place: Any) -> None:
    at = place(nn.Conv2d(1, 1, 3, padding=1), 4, 4)
    support = centred_support(at.site, (5, 5), (1, 1))
    assert pads_for(at.site, support, (4, 4)) == ((2, 2), (2, 2))
    module = Pad(at.site, support, (True, False))
    assert module(at.x).shape == (2, 1, 8, 4)
    assert repr(module) == "Pad(((2, 2), (2, 2)), zeros)"
    same = place(Conv2dSame(1, 1, 3, stride=2), 4, 4)
    assert repr(Pad(same.site, own_support(same.site), (True, True))).startswith("Pad(same, support=")
