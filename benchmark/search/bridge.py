"""The old names of the pipeline; goes once benchmark/pipeline.py is there."""
# mypy: ignore-errors

from types import SimpleNamespace

from benchmark import checkpoints


def Workbench(cell):  # noqa: N802
    return cell


pipeline = SimpleNamespace(
    load_original=lambda bench: checkpoints.load_original(bench),
    reference=lambda cell: "reference",
    load_outputs=lambda bench, node: checkpoints.load_outputs(
        bench, bench.reference_method, bench.reference_key, checkpoints.load_original(bench)[0]
    ),
    unlearn=lambda bench, method, original, cache=None: checkpoints.unlearn(bench, method, original, memo=cache),
    importance_cache=checkpoints.importance_memo,
)
