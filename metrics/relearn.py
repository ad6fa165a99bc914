"""Anamnesis index: how fast the unlearned model relearns the forget set, beside the retrained model."""

from metrics.base import EvalOutputs


def anamnesis(outputs: EvalOutputs) -> dict[str, float | None]:
    """Return the steps until D_f is known again, the retrained model's, and their ratio (Chundawat et al., TIFS 2023).

    The pipeline counts the steps and leaves them in `facts`. Parts:
        ain: steps / retrained_steps, from 0 on; 0 if nothing was forgotten. None if the retrained model knows D_f from
            the start, if neither model knows it in the end, and without steps (another task, no retrained model).
        steps, retrained_steps: of the optimiser; all of the longest training's if D_f is not known by then.
        at_least, at_most: 1 if `ain` is a lower bound (the unlearned model does not know D_f in the end) or an upper
            bound (nor does the retrained one); else 0.
    """
    retrained = outputs.others.get("retrained")
    steps, ended = (outputs.facts.get(f"relearn_{name}") for name in ("steps", "ended"))
    goal, goal_ended = (retrained.facts.get(f"relearn_{name}") if retrained else None for name in ("steps", "ended"))
    ain = None if steps is None or not goal or (ended and goal_ended) else steps / goal
    return {
        "ain": ain,
        "steps": steps,
        "retrained_steps": goal,
        "at_least": None if ain is None else ended,
        "at_most": None if ain is None else float(bool(goal_ended and ain)),
    }
