"""Strategies: how an architecture is found."""

from lwdc.strategies.base import Chooser, SearchLesson
from lwdc.strategies.dial import add_dial, dial_of
from lwdc.strategies.holding import Hold, add_hold, hold, hold_of
from lwdc.strategies.joint import JointLesson, search_fit, weight_parameters
from lwdc.strategies.joint_front import FrontLesson
from lwdc.strategies.paths import PathLesson
from lwdc.strategies.pressure import Held, Pressure, check_pressure

__all__ = [
    "Chooser",
    "FrontLesson",
    "Held",
    "Hold",
    "JointLesson",
    "PathLesson",
    "Pressure",
    "SearchLesson",
    "add_dial",
    "add_hold",
    "check_pressure",
    "dial_of",
    "hold",
    "hold_of",
    "search_fit",
    "weight_parameters",
]
