"""Unlearning methods: one file each, all with the contract of `methods.base.UnlearningMethod`."""
