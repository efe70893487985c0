"""A check of operators for those who write them: that all forms of one are the same function."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from lwdc.candidates.base import Operator, embed, kernel_shape
from lwdc.candidates.registry import Candidate, build, label
from lwdc.errors import SpaceError
from lwdc.geometry import convolve, own_support, union
from lwdc.sites import Site

_RTOL = 1e-9  # all is computed in float64


def check_operator(candidate: Candidate, site: Site) -> None:
    """Raise ``SpaceError`` unless the operator keeps at ``site`` what ``Operator`` promises; for tests of new ones.

    On random numbers: ``forward``, the kernel of a linear operator and what ``release(bias)`` gives are one function,
    whose output has the shape of the layer's, and ``inherit`` returns the error. Raises ``DoesNotFit`` where the
    operator cannot stand. Sites are found by ``lwdc.sites.find_sites(network, input_size)``.
    """
    if candidate["op"] == "original":  # the layer itself, which it has to be lent
        return
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(kernel_shape(site, own_support(site)), dtype=torch.float64, generator=random)
    bias = torch.randn(site.out_channels, dtype=torch.float64, generator=random) if site.bias else None
    try:
        check_forms(build(candidate, site).double(), weight, bias)
    except SpaceError as error:
        raise type(error)(f"operator {label(candidate)!r} at {site}: {error}") from error


def check_forms(operator: Operator, weight: Tensor, bias: Tensor | None) -> float:
    """The same of an operator in float64, which inherits ``weight``: the error that it returns."""
    site, support = operator.site, operator.support
    if support is not None:
        shape = (site.out_channels, site.in_channels // operator.groups, *support.count)
        found = tuple(operator.compact_kernel().shape)
        if found != shape:
            raise SpaceError(f"compact_kernel has the shape {found}, not {shape}: (C_out, C_in / groups, *taps).")
    error: Any = operator.inherit(weight)
    if not isinstance(error, float | int) or not math.isfinite(error):
        raise SpaceError(f"inherit returns the relative error as a float, found {error!r:.100}.")
    module: Any = copy.deepcopy(operator).release(bias)
    if not isinstance(module, nn.Module):
        raise SpaceError(f"release returns a module, found {module!r:.100}.")
    if any(isinstance(part, Operator) for part in module.modules()):
        raise SpaceError("release returns plain PyTorch modules, found an Operator among them.")
    for given, wanted in dict.fromkeys(site.calls):
        x = torch.randn(2, *given, dtype=weight.dtype, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            forms = {"forward": operator(x), "release(bias)": module.train(operator.training)(x)}
            for form, y in forms.items():
                if y.shape != (2, *wanted):
                    raise SpaceError(f"{form} makes of {given} an output of {tuple(y.shape[1:])}, not of {wanted}.")
            if support is None:
                _check_same("release(bias)", forms["release(bias)"], "forward", forms["forward"])
                continue
            joint = union([own_support(site), support])
            expected = convolve(x, operator.kernel(joint), None, site, joint, site.groups)
            _check_same("forward", forms["forward"], "the kernel", expected)
            if bias is not None:
                expected = expected + bias.view(-1, *(1,) * site.dims)
            _check_same("release(bias)", forms["release(bias)"], "the kernel with the site's bias", expected)
    if support is None:
        if not 0 <= error <= 1 + _RTOL:
            raise SpaceError(f"inherit returns {error}; the error of an operator that is not linear is from 0 to 1.")
        return float(error)
    joint = union([own_support(site), support])
    truth = float((embed(weight, site, joint) - operator.kernel(joint).detach()).norm() / weight.norm())
    if abs(error - truth) > _RTOL:
        raise SpaceError(f"inherit returns {error}, where the kernel's relative error ||W - K|| / ||W|| is {truth}.")
    return float(error)


def _check_same(form: str, found: Tensor, other: str, wanted: Tensor) -> None:
    difference = float((found - wanted).abs().max())
    if not difference <= _RTOL * max(1.0, float(wanted.abs().max())):
        raise SpaceError(f"{form} and {other} differ by up to {difference:.2g}.")
