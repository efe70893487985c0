"""Strategies: how an architecture is found."""

from lwdc.strategies.joint import JointLesson, search_fit, weight_parameters
from lwdc.strategies.pressure import Pressure

__all__ = ["JointLesson", "Pressure", "search_fit", "weight_parameters"]
