"""Strategies: how an architecture is found."""

from lwdc.strategies.base import Chooser, SearchLesson
from lwdc.strategies.dial import add_dial, dial_of, hold
from lwdc.strategies.holding import Holding
from lwdc.strategies.joint import JointLesson, search_fit, weight_parameters
from lwdc.strategies.joint_front import FrontLesson
from lwdc.strategies.paths import PathLesson
from lwdc.strategies.pressure import Dialled, Held, Pressure, check_pressure

__all__ = [
    "Chooser",
    "Dialled",
    "FrontLesson",
    "Held",
    "Holding",
    "JointLesson",
    "PathLesson",
    "Pressure",
    "SearchLesson",
    "add_dial",
    "check_pressure",
    "dial_of",
    "hold",
    "search_fit",
    "weight_parameters",
]
