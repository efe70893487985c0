"""Strategies: how an architecture is found."""

from lwdc.strategies.joint import JointLesson, joint_search, search_fit, weight_parameters

__all__ = ["JointLesson", "joint_search", "search_fit", "weight_parameters"]
