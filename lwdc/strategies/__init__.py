"""Strategies: how an architecture is found."""

from lwdc.strategies.base import SearchLesson
from lwdc.strategies.dial import add_dial, dial_of, tilt
from lwdc.strategies.joint import JointLesson, search_fit, weight_parameters
from lwdc.strategies.joint_front import FrontLesson
from lwdc.strategies.pressure import Pressure, RangePressure, check_pressure

__all__ = [
    "FrontLesson",
    "JointLesson",
    "Pressure",
    "RangePressure",
    "SearchLesson",
    "add_dial",
    "check_pressure",
    "dial_of",
    "search_fit",
    "tilt",
    "weight_parameters",
]
