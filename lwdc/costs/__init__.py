"""Costs: what a network costs, what a search expects it to cost, and how a bound is kept."""

from lwdc.costs.base import CostModel
from lwdc.costs.budget import BudgetController, choose, parse_budget
from lwdc.costs.latency import measure_ms
from lwdc.costs.macs import Macs
from lwdc.costs.params import Params
from lwdc.costs.table import CostTable, expected_cost, linear, logarithmic, penalty, tabulate

__all__ = [
    "BudgetController",
    "CostModel",
    "CostTable",
    "Macs",
    "Params",
    "choose",
    "expected_cost",
    "linear",
    "logarithmic",
    "measure_ms",
    "parse_budget",
    "penalty",
    "tabulate",
]
