"""Search a method's hyper-parameters; see `python -m benchmark.search --help`."""
