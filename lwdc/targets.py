"""Targets: what a configuration may have built by a ``_target_``. It may have come from a stranger."""

import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from lwdc.errors import LwdcError

# Everything public in these: a class or function at the top of a module, by the name that it has where it is defined.
ALLOWED = (
    "lwdc.costs",
    "lwdc.data",
    "lwdc.evaluators",
    "lwdc.gates",
    "lwdc.objectives",
    "lwdc.proposers",
    "lwdc.space",
    "lwdc.tracking.wandb",
    "timm.loss",
    "timm.optim",
    "timm.scheduler",
    "torch.nn",
    "torch.optim",
)
_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+")  # no part is private


def check_targets(config: Any, trusted: Sequence[str] = (), *, allowed: Sequence[str] = ALLOWED) -> None:
    """Raise ``LwdcError`` unless all that a resolved configuration would have built may be.

    That is what lies in the modules ``allowed``, and what the user trusts by name: a class, a function, or a module
    with all that is in it. What counts is where a thing is defined, not the path by which it is named; and nothing is
    imported for a path that does not begin with one of those names.
    """
    for key, target in targets(config):
        if not isinstance(target, str) or not _NAME.fullmatch(target):
            raise LwdcError(f"{key} is {target!r:.200}; it names a public class or function, like my_package.MyData.")
        if not (_within(target, allowed) or _within(target, trusted)):
            raise _refusal(key, target, target)
        found = _resolved(key, target)
        name = getattr(found, "__qualname__", None)
        own = f"{getattr(found, '__module__', None)}.{name}"
        named = [_resolved("trust", name) for name in trusted if _within(target, (name,)) or _within(own, (name,))]
        if any(found is thing for thing in named if not isinstance(thing, ModuleType)):
            continue
        modules = [thing.__name__ for thing in named if isinstance(thing, ModuleType)]
        public = isinstance(name, str) and name.isidentifier() and not name.startswith("_")
        kind = inspect.isclass(found) or inspect.isroutine(found)
        if not (public and kind and _within(own, (*allowed, *modules))):
            raise _refusal(key, target, own)


def import_trusted(trusted: Sequence[str]) -> None:
    """Import what the user trusts by name, so that what its modules register is known: operators, networks of timm.

    Raises ``LwdcError`` for a name that leads nowhere, and for a module that cannot be imported.
    """
    for name in trusted:
        _resolved("trust", name)


def targets(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every ``_target_`` in plain data, with its key. Raises ``LwdcError`` for text that is yet to be resolved."""
    if isinstance(config, dict):
        for name, value in config.items():
            below = f"{key}.{name}" if key else str(name)
            if name == "_target_":
                yield below, value
            yield from targets(value, below)
    elif isinstance(config, list | tuple):
        for index, value in enumerate(config):
            yield from targets(value, f"{key}[{index}]")
    elif isinstance(config, str) and "${" in config:
        raise LwdcError(f"{key} is {config!r:.200}: an interpolation may not make another one.")


def _within(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _resolved(key: str, name: str) -> Any:
    """What ``name`` leads to, as Hydra finds it: modules, then what is in them."""
    parts = name.split(".")
    try:
        found: Any = importlib.import_module(parts[0])
        for count, part in enumerate(parts[1:], start=2):
            if not hasattr(found, part) and isinstance(found, ModuleType):
                importlib.import_module(".".join(parts[:count]))
            found = getattr(found, part)
    except (ModuleNotFoundError, AttributeError) as error:
        raise LwdcError(
            f"{key}: {name!r} cannot be found ({' '.join(str(error).split())}). A module of your own must be "
            "installed, as by pip install -e, or its folder named by PYTHONPATH."
        ) from error
    except Exception as error:  # whatever a module may raise while it is imported
        said = " ".join(str(error).split()) or type(error).__name__
        raise LwdcError(f"{key}: {name!r} cannot be imported ({said}): mend that module.") from error
    return found


def _refusal(key: str, target: str, own: str) -> LwdcError:
    really = "" if own == target else f", which is {own},"
    return LwdcError(
        f"{key} names {target}{really} and would run it: a configuration may do so only with lwdc's own data, gates, "
        "costs, objectives, spaces, proposers and evaluators, and what torch.nn, torch.optim and timm have. If it is "
        f"yours, or you trust it, say so on the command line: trust={target}"
    )
