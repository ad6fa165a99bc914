import pytest
import torch

from metrics.base import EvalOutputs
from metrics.relearn import anamnesis


def relearnt(steps, ended=0.0, **others):
    facts = {} if steps is None else {"relearn_steps": steps, "relearn_ended": ended}
    return EvalOutputs({"forget_train": torch.zeros(1, 2)}, {}, False, facts, others=others)


@pytest.mark.parametrize(
    ("ours", "retrained", "ain", "at_least", "at_most"),
    [
        ((20,), (40,), 0.5, 0, 0),
        ((40,), (40,), 1, 0, 0),
        ((0,), (40,), 0, 0, 0),  # nothing was forgotten
        ((0,), (60, 1.0), 0, 0, 0),
        ((40,), (0,), None, None, None),  # there was nothing to forget
        ((0,), (0,), None, None, None),
        ((60, 1.0), (40,), 1.5, 1, 0),
        ((30,), (60, 1.0), 0.5, 0, 1),
        ((60, 1.0), (60, 1.0), None, None, None),
        ((None,), (None,), None, None, None),  # the random task
    ],
)
def test_the_anamnesis_index_and_its_edges(ours, retrained, ain, at_least, at_most):
    found = anamnesis(relearnt(*ours, retrained=relearnt(*retrained)))
    bounds = {"at_least": at_least, "at_most": at_most}
    assert found == {"ain": ain, "steps": ours[0], "retrained_steps": retrained[0], **bounds}


def test_without_a_retrained_model_there_are_steps_alone():
    assert {name: value for name, value in anamnesis(relearnt(30)).items() if value is not None} == {"steps": 30}
