"""Kinds: whether plain values are of the kinds that a signature names, and what is said where one is not."""

import contextlib
import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional, Union, get_args, get_origin, get_type_hints

from lwdc.errors import LwdcError

_NAMED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    types.NoneType: "null",
    list: "a list",
    dict: "a mapping, like {name: value}",
}
_SAID = ("yes", "no", "on", "off", "true", "false")  # by people who mean a flag


def check_kinds(function: Callable[..., Any], given: Mapping[str, Any], key_of: Callable[[str], str]) -> dict[str, Any]:
    """The arguments ``given``, if they are of the kinds that ``function``, or a class, annotates; else ``LwdcError``.

    ``key_of`` says by what key of the configuration an argument is known. What is annotated by nothing, or by types
    that no yaml can hold, may be anything.
    """
    hints = _hints(function)
    return {
        name: check_kind(value, hints[name], key_of(name)) if name in hints else value for name, value in given.items()
    }


def taken_by(function: Callable[..., Any]) -> tuple[list[str], bool]:
    """The arguments that a function or class has names for, and whether it may take others.

    Those of a class's bases count where it hands on what it has no name for.
    """
    bases = function.__mro__[:-1] if inspect.isclass(function) else ()
    makers = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
    if not makers:
        return _named(function)
    names: list[str] = []
    for maker in makers:
        own, takes_others = _named(maker)
        names += own[1:]
        if not takes_others:
            break
    return names, takes_others


def _named(function: Any) -> tuple[list[str], bool]:
    """The names of its arguments, and whether it takes further ones by name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of what is not written in Python
        return [], True
    further = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = [each.name for each in parameters if each.kind not in further]
    return names, any(each.kind == inspect.Parameter.VAR_KEYWORD for each in parameters)


def check_kind(value: Any, hint: Any, key: str) -> Any:
    """``value``, if it is of the kind ``hint``, a type annotation; else ``LwdcError``.

    Text stands for a number where only a number may: so are the values of environment variables.
    """
    if _fits(value, hint):
        return value
    if isinstance(value, float) and value.is_integer() and _fits(int(value), hint):  # such as 1e3
        return int(value)
    if isinstance(value, str):
        for number in (int, float):
            with contextlib.suppress(ValueError):
                if _fits(found := number(value), hint):
                    return found
    said = f"{key} is {' or '.join(dict.fromkeys(_names(hint)))}, found {value!r:.200}"
    if _fits([value], hint):
        raise LwdcError(f"{said}: write {key}=[{value}].")
    if isinstance(value, int | float) and _fits("", hint):
        raise LwdcError(f"{said}: put quotes around it, as in '{key}=\"{value}\"'.")
    if isinstance(value, str) and value.lower() in _SAID and _fits(True, hint):
        raise LwdcError(f"{said}, which is text: yes, no, on and off count as such.")
    raise LwdcError(f"{said}.")


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Argument -> annotation, through the keyword arguments that constructors hand on to those of their bases."""
    if not inspect.isclass(function):
        return _annotated(function)[0]
    hints: dict[str, Any] = {}
    for base in function.__mro__:
        if "__init__" in vars(base):
            own, hands_on = _annotated(vars(base)["__init__"])
            hints = own | hints
            if not hands_on:
                break
    return hints


def _annotated(function: Any) -> tuple[dict[str, Any], bool]:
    """The annotations of a function, and whether it takes further keyword arguments."""
    try:
        parameters, hints = inspect.signature(function).parameters, get_type_hints(function)
    except (TypeError, ValueError, NameError, AttributeError):  # of others, who may annotate by what they do not import
        return {}, False
    further = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found = {
        name: _or_none(hints[name]) if given.default is None else hints[name]
        for name, given in parameters.items()
        if name in hints and given.kind not in further
    }
    for name, default in [(name, parameters[name].default) for name in found]:
        # An annotation that says less than the class takes.
        if isinstance(default, int | float | str | list | tuple | Mapping) and not _fits(default, found[name]):
            del found[name]
    return found, any(given.kind == inspect.Parameter.VAR_KEYWORD for given in parameters.values())


def _or_none(hint: Any) -> Any:
    try:
        return Optional[hint]  # noqa: UP045  a hint of any kind
    except TypeError:  # none that is a type: others annotate by whatever they like
        return Any


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(value, Mapping) and "_target_" in value:  # something that is built before it is handed over
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:  # which of the names is for the class to say
        return any(isinstance(value, type(each)) for each in inner)
    kind = origin or hint
    if kind in (bool, str, types.NoneType, None):
        return value is None if kind is None else isinstance(value, kind)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if kind is Path:
        return isinstance(value, str | Path)
    if kind is Callable or kind is _CALLABLE:
        return callable(value)
    if not inspect.isclass(kind) or kind is object:
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(_fits(each, inner[1]) for each in value.values() if len(inner) == 2)
    if issubclass(kind, Sequence):
        if not isinstance(value, list | tuple):
            return False
        if kind is tuple and inner and Ellipsis not in inner and len(value) != len(inner):
            return False
        each_of = inner if kind is tuple and Ellipsis not in inner else inner[:1] * len(value)
        return all(_fits(each, its) for each, its in zip(value, each_of, strict=False))
    return True


_CALLABLE = get_origin(Callable[..., Any])


def _names(hint: Any) -> Iterator[str]:
    """What a person may write."""
    origin, inner = get_origin(hint), get_args(hint)
    kind = origin or hint
    if origin in (Union, types.UnionType):
        for each in inner:
            yield from _names(each)
    elif origin is Literal:
        yield from map(str, inner)
    elif kind in _NAMED:
        yield _NAMED[kind]
    elif inspect.isclass(kind) and issubclass(kind, Mapping):
        yield _NAMED[dict]
    elif inspect.isclass(kind) and issubclass(kind, Sequence):
        within = [*_names(inner[0])] if inner and inner[0] is not Ellipsis else []
        several = f"a list of {len(inner)}" if kind is tuple and inner and Ellipsis not in inner else "a list"
        yield f"{several} of which each is {' or '.join(within)}" if within else several
