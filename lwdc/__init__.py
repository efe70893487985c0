"""lwdc: layer-wise differentiable compression of PyTorch vision models.

Names are loaded when they are asked for, and with the first of them PyTorch: ``import lwdc`` alone takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwdc.architecture import Architecture
    from lwdc.costs import Latency, Macs, Memory, Params, Size, choose, parse_budget, penalty, tabulate
    from lwdc.errors import LwdcError
    from lwdc.export import load, save
    from lwdc.refitting import refit
    from lwdc.selection import advance
    from lwdc.space import SearchSpace
    from lwdc.surgery import discretise, rebuild, wrap

__version__ = "0.1.0"
__all__ = [
    "Architecture",
    "Latency",
    "LwdcError",
    "Macs",
    "Memory",
    "Params",
    "SearchSpace",
    "Size",
    "advance",
    "choose",
    "discretise",
    "load",
    "parse_budget",
    "penalty",
    "rebuild",
    "refit",
    "save",
    "tabulate",
    "wrap",
]

_HOMES = {
    "architecture": ("Architecture",),
    "costs": ("Latency", "Macs", "Memory", "Params", "Size", "choose", "parse_budget", "penalty", "tabulate"),
    "errors": ("LwdcError",),
    "export": ("load", "save"),
    "refitting": ("refit",),
    "selection": ("advance",),
    "space": ("SearchSpace",),
    "surgery": ("discretise", "rebuild", "wrap"),
}


def __getattr__(name: str) -> Any:
    """A public name, or a module, of the package: ``lwdc.wrap``, ``lwdc.gates``."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"lwdc.{home}"), name)
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"lwdc.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"lwdc.{name}":
                raise
    raise AttributeError(f"module 'lwdc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
