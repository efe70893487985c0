"""What every operator promises, whichever the family: whoever registers one gets these tests for nothing."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lwdc.candidates import Chain, DoesNotFit, Operator, build, candidate_names
from lwdc.candidates.checking import check_forms
from lwdc.candidates.fixed import Fixed
from lwdc.candidates.original import Original
from lwdc.candidates.partial import Partial
from lwdc.candidates.sums import Sum
from lwdc.geometry import convolve, own_support, union

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")

FREE = {"skip", "zero", "avg_pool", "max_pool"}  # operators without weights


def test_operators_can_be_pickled(operators_at: Any, place: Any) -> None:
    at = place(nn.Conv2d(8, 8, 3, padding=1, groups=2), 8, 8)
    for operator in operators_at(at):
        again = pickle.loads(pickle.dumps(operator))  # noqa: S301  our own
        assert type(again) is type(operator) and again.inherit(at.weight) == operator.inherit(at.weight)


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 16, 1), nn.Linear(8, 8)])
def test_what_inherits_a_layer_of_zeros_computes_zeros_and_learns(layer: Any, operators_at: Any, place: Any) -> None:
    at = place(layer, 8, 8)
    for operator in operators_at(at, inherit=False):
        if isinstance(operator, (Original, Partial)) or not _weights(operator):
            continue
        operator.inherit(torch.zeros_like(at.weight))
        fixed = isinstance(operator, Sum) and any(not _weights(part) for part in operator.parts)
        assert fixed or not operator(at.x).any(), operator
        operator(at.x).sum().backward()
        assert any(p.grad is not None and p.grad.any() for p in _weights(operator)), operator


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize(
    ("layer", "sizes"),
    [(nn.Conv2d(8, 8, 3, padding=1), (5, 5)), (nn.Conv1d(8, 8, 3, padding=1), (9,)), (nn.Linear(8, 8), (5,))],
)
def test_the_bias_of_a_layer_trains_in_its_stand_in_if_it_did_in_the_layer(
    layer: Any, sizes: tuple[int, ...], trains: bool, place: Any, operators_at: Any, released: Any
) -> None:
    at = place(layer, *sizes)
    bias = nn.Parameter(at.bias.detach().clone(), requires_grad=trains)
    for operator in operators_at(at):
        if operator.support is not None and not isinstance(operator, Original):
            with torch.no_grad():  # asks nothing of who calls
                module = released(operator, bias)
            flags = {name.rpartition(".")[2]: p.requires_grad for name, p in module.named_parameters()}
            assert flags.pop("bias") == trains and all(flags.values()), operator


def _weights(operator: Operator) -> list[nn.Parameter]:
    module = operator._conv[0] if isinstance(operator, Original) else operator
    return [p for name, p in module.named_parameters() if name != "bias"]


def _gradients(y: Tensor, x: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
    if not y.requires_grad:  # a constant: zero
        return [torch.zeros_like(x)]
    probe = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    found = torch.autograd.grad((y * probe).sum(), [x, *weights], allow_unused=True, materialize_grads=True)
    return list(found)


@given(data=st.data())
@settings(max_examples=25)
def test_kernel_branch_and_released_module_agree(
    data: st.DataObject, places: Any, operators_at: Any, released: Any, close: Callable[[Tensor, Tensor], bool]
) -> None:
    place = data.draw(places)
    site, x = place.site, place.x.requires_grad_(True)
    for operator in operators_at(place):
        if operator.support is None:
            continue
        weights = _weights(operator)
        support = union([own_support(site), operator.support])
        kernel = operator.kernel()
        as_kernel = convolve(x, kernel, None, site, support, site.groups)
        as_branch = operator(x)
        assert close(as_branch, as_kernel), operator
        wanted = _gradients(as_kernel, x, weights)
        for a, b in zip(_gradients(as_branch, x, weights), wanted, strict=True):
            assert close(a, b), operator

        module = released(operator, place.bias)
        y = module(x)
        assert close(y, place.biased(as_kernel)), module
        kept = [p for name, p in module.named_parameters() if name.rpartition(".")[2] != "bias"]
        for a, b in zip(_gradients(y, x, kept), wanted, strict=True):
            assert close(a, b), module

        if (
            not site.pools and kernel.shape == place.conv.weight.shape
        ):  # then the site's own convolution can say what it means
            own = torch.func.functional_call(place.plain, {"weight": kernel}, (x,))
            assert close(own, place.biased(as_kernel)), operator


@given(data=st.data())
@settings(max_examples=20)
def test_every_operator_keeps_shape_and_reports_its_error(data: st.DataObject, places: Any, operators_at: Any) -> None:
    place = data.draw(places)
    for operator in operators_at(place, inherit=False):
        error = check_forms(operator, place.weight, place.bias)
        # A kernel that is not trained may lie farther away than nothing at all.
        assert error <= 1 + 1e-9 or any(isinstance(m, (Fixed, Partial)) for m in operator.modules())


@given(data=st.data())
@settings(max_examples=15)
def test_no_small_change_brings_inherited_weights_nearer(data: st.DataObject, places: Any, operators_at: Any) -> None:
    place = data.draw(places)
    weight = place.weight
    for operator in operators_at(place, inherit=False):
        if not isinstance(operator, Chain):
            continue
        error = operator.inherit(weight)
        slack = 1e-3 if len(operator.convolutions) > 2 else 1e-9  # three factors have no closed form
        for scale in (1e-1, 1e-3):
            moved = copy.deepcopy(operator)
            with torch.no_grad():
                for p in moved.parameters():
                    p.add_(scale * torch.randn_like(p))
            assert moved._error(weight) >= error - slack


@given(data=st.data(), norm=st.floats(0.1, 10))
@settings(max_examples=15)
def test_fresh_weights_have_the_norm_asked_for(
    data: st.DataObject, norm: float, places: Any, operators_at: Any
) -> None:
    for operator in operators_at(data.draw(places), inherit=False):
        if isinstance(operator, Chain):
            operator.reset(norm)
            assert float(operator.kernel().detach().norm()) == pytest.approx(norm, rel=1e-9)


@pytest.fixture(params=candidate_names())
def built(request: pytest.FixtureRequest, candidates: list[dict[str, Any]], place: Any) -> tuple[Operator, Any]:
    """The operator with its first options at the first usual place where it fits, and that place."""
    candidate = next(c for c in candidates if c["op"] == request.param)
    for conv in (nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)):
        at = place(conv, 6, 6)
        try:
            operator = build(candidate, at.site).double()
        except DoesNotFit:
            continue
        if isinstance(operator, Original):
            operator.own(at.conv)
        return operator, at
    raise AssertionError(f"{request.param} fits no usual convolution: give its options in tests/candidates/conftest.py")


def test_the_gradient_reaches_the_input(built: tuple[Operator, Any]) -> None:
    operator, place = built
    x = place.x.requires_grad_(True)
    operator.inherit(place.weight)
    y = operator(x)
    if isinstance(operator, Fixed) and operator.value == 0:
        assert not y.requires_grad and not y.any()
        return
    (y**2).sum().backward()
    assert x.grad is not None and bool(x.grad.any())


def test_a_released_operator_is_plain_pytorch_without_lwdc_operators(built: tuple[Operator, Any]) -> None:
    operator, place = built
    module = operator.release(place.bias)
    assert not any(isinstance(m, Operator) for m in module.modules())
    with torch.no_grad():
        module(place.x)


def test_operators_without_weights_stay_so(built: tuple[Operator, Any], request: pytest.FixtureRequest) -> None:
    operator, _ = built
    name = request.node.callspec.params["built"]
    count = sum(p.numel() for p in operator.parameters())
    assert (count == 0) == (name in FREE or name == "original")  # the original's are the selection operator's
    assert not operator.state_dict() or count > 0  # patterns need no place in a file


def test_an_operator_moves_to_another_precision_as_a_whole(built: tuple[Operator, Any]) -> None:
    operator, place = built
    for dtype in (torch.float32, torch.float64):
        place.conv.to(dtype)
        operator.to(dtype)
        error = operator.inherit(place.weight)
        assert error == error
        assert operator(place.x.to(dtype)).dtype == dtype
        if operator.support is not None:
            assert operator.kernel().dtype == dtype


def test_a_zero_weight_is_inherited_without_nan(built: tuple[Operator, Any]) -> None:
    operator, place = built
    with torch.no_grad():
        place.conv.weight.zero_()
    error = operator.inherit(place.weight)
    assert error == error and error >= 0
    assert all(bool(p.isfinite().all()) for p in operator.parameters())


def test_a_copy_has_its_own_weights(built: tuple[Operator, Any]) -> None:
    operator, place = built
    operator.inherit(place.weight)
    twin = copy.deepcopy(operator)
    before = operator(place.x).detach()
    for p in (*twin.parameters(), *_weights(twin)):
        p.data.add_(1)
    assert torch.equal(operator(place.x), before)


def test_in_half_precision_a_released_operator_is_the_same_function(built: tuple[Operator, Any], released: Any) -> None:
    operator, place = built
    operator.inherit(place.weight)
    module = released(operator, place.bias).float().eval()
    x = place.x.float()
    with torch.no_grad():
        y, rounded = module(x), copy.deepcopy(module).bfloat16()(x.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert float((rounded.float() - y).norm()) <= 0.03 * float(y.norm())


@pytest.mark.parametrize(
    ("op", "options"), [("grouped", {"groups": 2}), ("skip", {}), ("zero", {}), ("epitome", {"ratio": 2})]
)
def test_under_autocast_a_stand_in_of_a_linear_layer_is_as_precise_as_the_layer(
    op: str, options: dict[str, Any], place: Any
) -> None:
    at = place(nn.Linear(8, 8), 5)
    module = build({"op": op, **options}, at.site).release(at.bias).float()
    layer, x = at.conv.float(), at.x.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(x).dtype == layer(x).dtype == torch.bfloat16
