"""Proposals: what Hydra's overrides leave open, as Optuna's distributions, and a trial's values as overrides again."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lwdc.errors import LwdcError


def open_settings(overrides: Sequence[Override]) -> dict[str, BaseDistribution]:
    """What each setting may be that has several values: choices as Hydra writes them, whole or real numbers.

    ``a,b``, ``choice`` and ``glob`` are unordered; ``range`` leaves its end out, as in every sweep; ``interval``
    includes both, whole numbers alone by ``int(interval(1,8))``; ``tag(log, ...)`` gives a logarithmic scale.

    Raises ``LwdcError`` where there is nothing to choose from, or a tag or bound that means nothing.
    """
    found = {o.get_key_element(): _distribution(o) for o in overrides if o.is_sweep_override()}
    if not found:
        raise LwdcError(
            "there is nothing to search: leave a setting open, like 'cost.factor=tag(log, interval(0.03,3))' or "
            "strategy.lr=0.005,0.02."
        )
    return found


def as_overrides(space: Mapping[str, BaseDistribution], params: Mapping[str, Any]) -> list[str]:
    """A trial's values as overrides of Hydra, in the order of ``space``."""
    return [f"{key}={_written(distribution, params[key])}" for key, distribution in space.items()]


def _written(distribution: BaseDistribution, value: Any) -> str:
    stepped = isinstance(distribution, FloatDistribution) and distribution.step is not None
    return str(float(f"{value:.12g}") if stepped else value)  # 0.1 + 2 * 0.1 is 0.30000000000000004


def _distribution(override: Override) -> BaseDistribution:
    value = override.value()
    tags = value.tags if isinstance(value, ChoiceSweep | RangeSweep | IntervalSweep) else set()
    if unknown := tags - {"log"}:
        raise _meaningless(override, f"the tag {', '.join(sorted(unknown))} means nothing here; log does")
    log = "log" in tags
    if isinstance(value, IntervalSweep):
        return _interval(override, value, log)
    if isinstance(value, RangeSweep):
        return _range(override, value, log)
    if log:
        raise _meaningless(override, "choices have no scale: take tag(log, ...) away, or give an interval")
    choices = list(override.sweep_string_iterator())
    if len(set(choices)) < 2:
        raise _meaningless(override, f"there is nothing to choose: found {choices}, a search needs two values or more")
    return CategoricalDistribution(list(dict.fromkeys(choices)))


def _interval(override: Override, value: IntervalSweep, log: bool) -> BaseDistribution:
    low, high = value.start, value.end
    assert low is not None and high is not None
    if not low < high:
        raise _meaningless(override, "an interval goes from a smaller number to a larger one")
    _check_scale(override, low, log)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _range(override: Override, value: RangeSweep, log: bool) -> BaseDistribution:
    step = value.step
    if not step:
        raise _meaningless(override, "its step is 0")
    values = sorted(value.range())
    if len(values) < 2:
        raise _meaningless(override, f"there is nothing to choose: found {values}, a search needs two values or more")
    _check_scale(override, values[0], log)
    if all(isinstance(number, int) for number in values):
        if log and abs(step) != 1:
            raise _meaningless(override, "on a logarithmic scale a range has the step 1")
        return IntDistribution(values[0], values[-1], step=abs(int(step)), log=log)
    if log:
        raise _meaningless(override, "on a logarithmic scale real numbers have no step: give an interval")
    return FloatDistribution(values[0], values[-1], step=abs(float(step)))


def _check_scale(override: Override, low: float, log: bool) -> None:
    if log and low <= 0:
        raise _meaningless(override, "on a logarithmic scale numbers are greater than 0")


def _meaningless(override: Override, why: str) -> LwdcError:
    return LwdcError(f"{override.input_line}: {why}.")
