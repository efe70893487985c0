"""The check for those who write operators: it passes lwdc's own and tells which promise one breaks."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lwdc.candidates import DoesNotFit, Operator, check_operator, register_candidate, registry
from lwdc.errors import SpaceError
from lwdc.geometry import own_support
from lwdc.sites import Site


def test_every_operator_of_the_package_passes(place: Any, candidates: list[dict[str, Any]]) -> None:
    site = place(nn.Conv2d(8, 8, 3, padding=1), 5, 6).site
    for candidate in {candidate["op"]: candidate for candidate in reversed(candidates)}.values():
        with contextlib.suppress(DoesNotFit):
            check_operator(candidate, site)


class Copied(Operator):
    """The layer itself once more."""

    def __init__(self, site: Site) -> None:
        super().__init__(site, own_support(site))
        self.conv = nn.Conv2d(site.in_channels, site.out_channels, 3, site.stride, 1, bias=False)

    def compact_kernel(self) -> Tensor:
        return self.conv.weight

    def inherit(self, weight: Tensor) -> float:
        with torch.no_grad():
            self.conv.weight.copy_(weight)
        return self._error(weight)

    def reset(self, norm: float) -> None: ...

    def release(self, bias: Tensor | None) -> nn.Module:
        self.conv.bias = None if bias is None else nn.Parameter(bias)
        return self.conv


def changed(**methods: Callable[..., Any]) -> type[Copied]:
    return type("Changed", (Copied,), methods)


def unlike(operator: Any, site: Site) -> None:
    Copied.__init__(operator, site)
    operator.support = None


def nothing(operator: Any, weight: Tensor) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (changed(release=lambda op, bias: op.conv), r"release\(bias\) and the kernel with the site's bias differ by"),
        (changed(release=lambda op, bias: None), "release returns a module, found None"),
        (changed(release=lambda op, bias: op), "found an Operator among them"),
        (changed(forward=lambda op, x: op.conv(2 * x)), "forward and the kernel differ by"),
        (changed(forward=lambda op, x: op.conv(x)[..., :1]), r"forward makes of \(4, 6, 6\) an output of \(4, 3, 1\)"),
        (changed(compact_kernel=lambda op: op.conv.weight[..., :1]), r"has the shape \(4, 4, 3, 1\)"),
        (changed(inherit=lambda op, weight: 0.0), r"inherit returns 0.0, where the kernel's relative error .* is"),
        (changed(inherit=lambda op, weight: None), "as a float, found None"),
        (
            changed(__init__=unlike, inherit=nothing, forward=lambda op, x: 2 * op.conv(x)),
            r"release\(bias\) and forward differ by",
        ),
        (
            changed(
                __init__=unlike,
                forward=lambda op, x: op.conv(x),
                release=lambda op, bias: op.conv,
                inherit=lambda op, weight: 2.0,
            ),
            "inherit returns 2.0; .* from 0 to 1",
        ),
    ],
)
def test_a_promise_that_is_broken_is_told(
    kind: type[Copied], message: str, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    register_candidate("own")(kind)
    site = place(nn.Conv2d(4, 4, 3, 2, 1), 6, 6).site
    with pytest.raises(SpaceError, match=f"operator 'own' at '0' .*{message}"):
        check_operator({"op": "own"}, site)


def test_an_operator_that_keeps_its_promises_passes(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    register_candidate("own")(Copied)
    check_operator({"op": "own"}, place(nn.Conv2d(4, 4, 3, 2, 1), 6, 6).site)
