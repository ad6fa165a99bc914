"""Records -> tables, figures and claims, read by `python -m benchmark.report`; runs nothing and needs no torch."""
