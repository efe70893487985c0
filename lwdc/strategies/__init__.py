"""Strategies: how an architecture is found."""

from lwdc.strategies.joint import JointLesson, search_fit, weight_parameters
from lwdc.strategies.pressure import Pressure, check_pressure

__all__ = ["JointLesson", "Pressure", "check_pressure", "search_fit", "weight_parameters"]
