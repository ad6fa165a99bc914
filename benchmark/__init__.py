"""The runner: the only package that knows Hydra, files, clocks, hashes and tables."""
