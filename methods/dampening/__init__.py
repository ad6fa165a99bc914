"""Selective synaptic dampening for any model: importances, selection, dampening, a check. Needs torch alone."""

from .check import check
from .dampen import Change, dampen
from .importance import Importance
from .loss import cross_entropy
from .unlearn import percentile_alpha, unlearn

__all__ = ["Change", "Importance", "check", "cross_entropy", "dampen", "percentile_alpha", "unlearn"]
