"""Strategies: how an architecture is found."""

from lwdc.strategies.joint import JointLesson, search_fit, weight_parameters

__all__ = ["JointLesson", "search_fit", "weight_parameters"]
