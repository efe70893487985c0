"""lwdc: layer-wise differentiable compression of PyTorch vision models."""

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
