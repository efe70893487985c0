"""Chains: layers one after another are one convolution, and its weight is their product."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lwdc.candidates import Chain, DoesNotFit, Layer
from lwdc.candidates.chain import compose, diagonal_blocks, ungroup

CHANNELS = st.sampled_from([4, 8, 12])


@given(data=st.data())
@settings(max_examples=100)
def test_composing_two_layers_equals_running_them(data: st.DataObject) -> None:
    inputs, middle, outputs = (data.draw(CHANNELS) for _ in range(3))
    first_groups = data.draw(st.sampled_from([g for g in (1, 2, 4, inputs) if inputs % g == middle % g == 0]))
    second_groups = data.draw(st.sampled_from([g for g in (1, 2, 4, middle) if middle % g == outputs % g == 0]))
    taps = data.draw(st.sampled_from([((3, 2), (1, 1)), ((1, 1), (2, 3)), ((1, 3), (3, 1)), ((3, 1), (1, 2))]))
    first = torch.randn(middle, inputs // first_groups, *taps[0], dtype=torch.float64)
    second = torch.randn(outputs, middle // second_groups, *taps[1], dtype=torch.float64)
    x = torch.randn(1, inputs, 5, 5, dtype=torch.float64)
    y = F.conv2d(F.conv2d(x, first, groups=first_groups), second, groups=second_groups)
    kernel, groups = compose(first, first_groups, second, second_groups)
    torch.testing.assert_close(F.conv2d(x, kernel, groups=groups), y, rtol=1e-10, atol=1e-10)


def test_ungrouping_and_taking_the_diagonal_blocks_undo_each_other() -> None:
    weight = torch.randn(12, 2, 3, 3)  # 4 groups of 8 inputs
    dense = ungroup(weight, 4, 2)
    assert dense.shape == (12, 4, 3, 3)
    assert int((dense != 0).sum()) == weight.numel()
    assert torch.equal(diagonal_blocks(dense, 2, 4), weight)


def test_two_thin_layers_are_one_square_kernel(place: Any, close: Any, released: Any) -> None:
    at = place(nn.Conv2d(4, 6, 3, stride=2, padding=1), 7, 8)
    rows, columns = Layer(4, 5, 1, (True, False)), Layer(5, 6, 1, (False, True))
    chain = Chain(at.site, [rows, columns], factorise=lambda weight: []).double()
    assert [tuple(conv.stride) for conv in chain.convolutions] == [(2, 1), (1, 2)]
    own = torch.func.functional_call(at.plain, {"weight": chain.kernel()}, (at.x,))
    assert close(chain(at.x), own - at.conv.bias.view(-1, 1, 1))
    assert close(released(chain, at.conv.bias)(at.x), own)


def test_kernels_form_in_every_memory_format(place: Any, close: Any, operators_at: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1), 6, 6)
    for operator in operators_at(at):
        if operator.support is not None:
            before = operator.kernel()
            assert close(operator.to(memory_format=torch.channels_last).kernel(), before)


def test_groups_that_do_not_divide_are_refused_with_the_channels(place: Any) -> None:
    site = place(nn.Conv2d(8, 12, 3), 6, 6).site
    with pytest.raises(DoesNotFit, match="groups=8 does not divide 8 -> 12 channels"):
        Chain(site, [Layer(8, 12, 8, (True, True))])


def test_fewer_groups_than_the_site_are_refused(place: Any) -> None:
    site = place(nn.Conv2d(8, 8, 3, groups=4), 6, 6).site
    with pytest.raises(DoesNotFit, match="groups=2 is no multiple of the site's own 4"):
        Chain(site, [Layer(8, 8, 2, (True, True))])


@pytest.mark.parametrize(("mode", "smallest"), [("reflect", 3), ("circular", 2)])
def test_a_wide_kernel_is_refused_where_the_map_cannot_be_padded_so_far(
    mode: Any, smallest: int, place: Any, operators_at: Any
) -> None:
    def wide(size: int) -> list[Any]:
        at = place(nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode), size, size)
        found = [op for op in operators_at(at, "separable", "avg_pool") if op.support.count == (5, 5)]
        for operator in found:
            assert operator(at.x).shape == at.x.shape
        return found

    assert len(wide(smallest)) == 2
    assert len(wide(smallest - 1)) == 0


def test_releasing_gives_the_bias_to_the_last_layer_alone(place: Any, operators_at: Any, released: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3), 6, 6)
    for operator in operators_at(at, "separable", "low_rank"):
        *inner, last = [m for m in released(operator, at.conv.bias).modules() if isinstance(m, nn.Conv2d)]
        assert all(conv.bias is None for conv in inner)
        assert torch.equal(last.bias, at.conv.bias) and last.bias is not at.conv.bias
