"""Selective synaptic dampening for any classifier: importances, selection, dampening. Needs torch alone."""
