"""Selective synaptic dampening for any classifier: importances, selection, dampening. Needs torch alone."""

from .dampen import dampen
from .importance import parameter_importance

__all__ = ["dampen", "parameter_importance"]
