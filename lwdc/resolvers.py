"""Resolvers: what the interpolations of lwdc's configuration call beside OmegaConf's own."""

from typing import Any

from omegaconf import OmegaConf


def register_resolvers() -> None:
    """For whoever composes or resolves the configuration; again changes nothing."""
    OmegaConf.register_new_resolver("unless", _unless, replace=True)


def _unless(given: Any, otherwise: Any) -> Any:
    """``otherwise``, unless something is given: then nothing."""
    return None if given is not None else otherwise
