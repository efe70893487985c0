"""A check of gates before they are used: whoever writes one may make a mistake that training would not show."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lwdc.errors import SpaceError
from lwdc.gates.base import Gate


def make_gate(make: Callable[[int], Gate], count: int) -> Gate:
    """What ``make`` gives for so many candidates. Raises ``SpaceError`` unless it is a gate."""
    if not callable(make) or isinstance(make, nn.Module):
        given = f"one {type(make).__name__}, which is for one site" if isinstance(make, nn.Module) else repr(make)
        raise SpaceError(
            "gate is what makes a gate for a number of candidates, such as the class lwdc.gates.OneHot or "
            f"functools.partial(lwdc.gates.OneHot, warmup=0.1); found {given}."
        )
    try:
        gate: Any = make(count)
    except SpaceError:
        raise
    except Exception as error:
        raise SpaceError(f"the gate cannot be built for {count} candidates: {error}.") from error
    if not isinstance(gate, Gate):
        raise SpaceError(f"a gate is a subclass of lwdc.gates.Gate, found a {type(gate).__name__}.")
    if not hasattr(gate, "uniform"):
        raise SpaceError(f"gate {type(gate).__name__} does not call Gate.__init__(num_candidates).")
    return gate


def check_gate(gate: Gate) -> None:
    """Raise ``SpaceError`` unless ``gate``, which is left as it was, keeps what ``Gate`` promises.

    No random state moves on.
    """
    name, count = type(gate).__name__, gate.logits.numel()
    gate = copy.deepcopy(gate)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        for form in ("sample", "expectation", "evaluation"):
            weights = getattr(gate, form)()
            _check_weights(f"gate {name}: {form}()", weights, count)
            if form != "evaluation" and gate.logits.requires_grad and not weights.requires_grad:
                raise SpaceError(f"gate {name}: {form}() has no gradient for the logits, by which the gate learns.")
        last = count - 1
        gate.point_at(last)
        pointed = {"train()()": gate.train()(), "eval()()": gate.eval()(), "expected()": gate.expected()}
        for form, weights in pointed.items():
            if weights.tolist() != [float(i == last) for i in range(count)]:
                raise SpaceError(
                    f"gate {name}: after point_at({last}) every form is exactly one-hot, but {form} is "
                    f"{_numbers(weights)}."
                )


def _check_weights(what: str, weights: Any, count: int) -> None:
    wanted = f"mixing weights are ({count},) for {count} candidates, finite, and sum to 1"
    if not isinstance(weights, Tensor) or weights.shape != (count,) or not weights.is_floating_point():
        raise SpaceError(f"{what} is {_shown(weights)}: {wanted}.")
    if not bool(weights.isfinite().all()) or abs(float(weights.detach().sum()) - 1) > 1e-4:
        raise SpaceError(f"{what} is {_numbers(weights)}: {wanted}.")


def _numbers(weights: Tensor) -> str:
    return f"[{', '.join(f'{weight:.3g}' for weight in weights.tolist())}]"


def _shown(value: Any) -> str:
    return f"{value!r:.100}".replace("\n", " ")
