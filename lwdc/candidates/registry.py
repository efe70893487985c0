"""The registry of operators: from a candidate, which is plain data, to the operator at a site."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lwdc.candidates.base import Operator
from lwdc.errors import OF_ONES_OWN, LwdcError, SpaceError, unknown_name
from lwdc.sites import Site

Candidate = Mapping[str, Any]  # {"op": name, **options}
Builder = Callable[..., Operator]  # (site, **options) -> Operator, or raises DoesNotFit
_B = TypeVar("_B", bound=Builder)

_BUILDERS: dict[str, Builder] = {}


def register_candidate(name: str) -> Callable[[_B], _B]:
    """Make ``{"op": name, **options}`` build an operator by the decorated class or function.

    It is called as ``builder(site, **options)`` and raises ``DoesNotFit`` where it cannot stand. An option ``of`` lists
    candidates that this one is made of, and is for nothing else.
    """

    if not isinstance(name, str):
        raise SpaceError(f"an operator is registered by name, @register_candidate('name'), found {name!r}.")

    def register(builder: _B) -> _B:
        taken = _BUILDERS.get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (
            builder.__module__,
            builder.__qualname__,
        ):
            raise SpaceError(f"operator {name!r} is already registered by {taken.__module__}; choose another name.")
        _BUILDERS[name] = builder
        return builder

    return register


def candidate_names() -> list[str]:
    """Names of all registered operators, sorted."""
    return sorted(_BUILDERS)


def origin(name: str) -> str:
    """The module that registered the operator: what to import before loading a package that uses it."""
    return _BUILDERS[name].__module__


def check(candidate: Candidate) -> None:
    """Raise ``SpaceError`` if the operator is unknown or does not take the options given."""
    if not isinstance(candidate, Mapping) or not isinstance(candidate.get("op"), str):
        raise SpaceError(f"a candidate is written {{op: name, option: value}}, found {candidate!r}.")
    name, options = candidate["op"], _options(candidate)
    if name not in _BUILDERS:
        raise SpaceError(f"{unknown_name('operator', str(name), _BUILDERS)} {OF_ONES_OWN}")
    signature = inspect.signature(_BUILDERS[name])
    try:
        signature.bind(None, **options)
    except TypeError as error:
        accepted = _taken(_BUILDERS[name])
        takes = f"it takes {', '.join(accepted)}" if accepted else "it takes no options"
        raise SpaceError(f"operator {name!r} cannot be built from {options}: {error}; {takes}.") from error
    if not isinstance(parts(candidate), list):
        raise SpaceError(f"operator {name!r} takes a list of candidates as of, found {parts(candidate)!r}.")
    for part in parts(candidate):
        if isinstance(part, Mapping) and "of" in part:
            raise SpaceError(f"operator {name!r} takes no {part.get('op')!r} as a part: list its parts themselves.")
        check(part)


def parts(candidate: Candidate) -> Sequence[Candidate]:
    """The candidates that a candidate is made of, listed by its option ``of``, a name kept for that; most have none."""
    return candidate.get("of", [])


def build(candidate: Candidate, site: Site) -> Operator:
    """The operator at ``site``, with weights not yet set. Raises ``DoesNotFit`` or ``SpaceError``."""
    check(candidate)
    name, options = candidate["op"], _options(candidate)
    try:
        operator: Any = _BUILDERS[name](site, **options)
    except LwdcError:
        raise
    except Exception as error:
        raise SpaceError(
            f"operator {name!r} cannot be built from {options} at {site}: {told(error)}. Correct its options; the "
            "operator itself raises DoesNotFit where it cannot stand."
        ) from error
    if not isinstance(operator, Operator):
        raise SpaceError(f"operator {name!r} is built by a function that returns an Operator, found {operator!r:.100}.")
    if lacking := _lacking(operator):
        raise SpaceError(f"operator {name!r}: its class {type(operator).__name__} {lacking}.")
    return operator


def told(error: Exception) -> str:
    """What an operator of others raised, and what that means where no tensor has values."""
    text = f"{type(error).__name__}: {error}".rstrip(":. ")
    if "meta" not in text:
        return text
    return f"{text} (sizes are counted on the meta device, where tensors have no values: read none of a tensor)"


def _lacking(operator: Operator) -> str:
    """What an operator's class does not have that all have; empty if it has all."""
    if not hasattr(operator, "support"):
        return "does not call Operator.__init__(site, support, groups)"
    kind = type(operator)
    if operator.support is None and kind.forward is Operator.forward:
        return "is not linear (its support is None) and needs a forward"
    if operator.support is not None and kind.compact_kernel is Operator.compact_kernel:
        return "is linear (it has a support) and needs a compact_kernel"
    return ""


def label(candidate: Candidate) -> str:
    """A short name for tables and logs: the operator's name and its option values, like ``grouped_4``.

    They stand in the order in which the operator takes them; one whose place does not tell it, because an option
    before it is left out, has its name: ``ghost_3`` has the ratio 3, ``ghost_size=3`` the size. Parts stand in
    brackets, like ``sum(grouped_4+pointwise)``: without a comma, as tables of costs are csv files.
    """
    options = {option: value for option, value in _options(candidate).items() if option != "of"}
    taken = _taken(_BUILDERS.get(candidate["op"]))
    given = sorted(options, key=lambda option: taken.index(option) if option in taken else len(taken))
    values = [
        str(options[option]) if taken[place : place + 1] in ([option], []) else f"{option}={options[option]}"
        for place, option in enumerate(given)
    ]
    made_of = "+".join(label(part) for part in parts(candidate))
    return "_".join([str(candidate["op"]), *values]) + (f"({made_of})" if made_of else "")


@functools.cache  # labels are asked for by the thousand
def _taken(builder: Builder | None) -> list[str]:
    """The options that an operator takes, in order; of one that is not registered none are known."""
    return [] if builder is None else list(inspect.signature(builder).parameters)[1:]


def _options(candidate: Candidate) -> dict[str, Any]:
    return {key: value for key, value in candidate.items() if key != "op"}
