"""Anamnesis index: how fast the unlearned model relearns the forget set, beside the retrained model."""

from metrics.base import EvalOutputs


def anamnesis(outputs: EvalOutputs) -> dict[str, float | None]:
    """Return the steps until D_f is known again, the retrained model's, and their ratio (Chundawat et al., TIFS 2023).

    The pipeline counts the steps and leaves them in `facts`. Parts:
        ain: steps / retrained_steps, from 0 on; 0 if nothing was forgotten. None if the retrained model knows D_f from
            the start or does not learn it in time, and without steps (another task, no retrained model).
        steps, retrained_steps: of the optimiser; the longest training's if D_f is not known by then.
        at_least: 1 if so it is with the unlearned model: then `steps` and `ain` are lower bounds; else 0.
    """
    retrained = outputs.others.get("retrained")
    steps, ended = (outputs.facts.get(f"relearn_{name}") for name in ("steps", "ended"))
    goal, goal_ended = (retrained.facts.get(f"relearn_{name}") if retrained else None for name in ("steps", "ended"))
    return {
        "ain": steps / goal if steps is not None and goal and not goal_ended else None,
        "steps": steps,
        "retrained_steps": goal,
        "at_least": ended,
    }
