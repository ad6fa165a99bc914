"""The example script forgets what it says."""

import re

from scripts.own_model import main


def test_the_example_forgets_one_class_and_keeps_the_others(capsys):
    main()
    text = capsys.readouterr().out
    n, total = map(int, re.search(r"dampened (\d+) of (\d+) parameters", text).groups())
    assert 0 < n < total
    values = {name: (float(a), float(b)) for name, a, b in re.findall(r"(\w+): (\S+) before, (\S+) after", text)}
    assert min(values["retained"]) > 0.9
    assert values["forgotten"][0] > 0.9
    assert values["forgotten"][1] < 0.1
