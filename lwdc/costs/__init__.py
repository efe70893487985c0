"""Costs: what a network costs, what a search expects it to cost, and how a bound is kept."""

from lwdc.costs.base import CostModel, MeasuredCostModel, WholeCostModel
from lwdc.costs.budget import best_within, choose, choose_within, parse_budget, read_budget
from lwdc.costs.from_file import FromFile
from lwdc.costs.latency import Latency
from lwdc.costs.macs import Macs
from lwdc.costs.memory import Memory
from lwdc.costs.params import Params
from lwdc.costs.size import Size
from lwdc.costs.table import Agreement, CostTable, expected_cost, linear, logarithmic, penalty, tabulate

__all__ = [
    "Agreement",
    "CostModel",
    "CostTable",
    "FromFile",
    "Latency",
    "Macs",
    "MeasuredCostModel",
    "Memory",
    "Params",
    "Size",
    "WholeCostModel",
    "best_within",
    "choose",
    "choose_within",
    "expected_cost",
    "linear",
    "logarithmic",
    "parse_budget",
    "penalty",
    "read_budget",
    "tabulate",
]
