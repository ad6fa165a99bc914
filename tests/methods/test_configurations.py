"""The published settings of the methods, as their configuration files compose them."""

from benchmark.cell import without_about
from benchmark.compose import cells_of
from tests.methods.helpers import compose_config, compose_methods

ADAM = {"optimizer": "adam", "lr": 1e-4}
FISHER = {"scale": 1e-6, "max_inverse": 1e3, "max_inverse_head": 1e2, "boost": 10.0, "forgotten_variance": 1e-4,
          "tolerance": 1e-3}  # fmt: skip
PAPER, STRICT = (f"task=class protocol={name}" for name in ("paper", "strict"))


def test_published_settings():
    for run, name, expected in (
        ("task=random protocol=paper", "amnesiac", {"recipe": {**ADAM, "batch_size": 128, "epochs": 3}}),
        (PAPER, "bad_teacher", {"incompetent": "head", "retain_fraction": 0.3, "temperature": 1.0}),
        (STRICT, "bad_teacher", {"incompetent": "all", "recipe": {**ADAM, "batch_size": 256, "epochs": 1}}),
        (f"model=vit {STRICT}", "bad_teacher", {"recipe": {"batch_size": 128}}),
        (PAPER, "unsir", {"noise_images": 3, "noise_mode": "train", "noise_steps": 25, "stale_gradient": True}),
        ("task=subclass protocol=strict", "unsir", {"noise_images": 32, "noise_mode": "eval", "noise_steps": 250}),
        (STRICT, "unsir", {"noise_batch": 32, "repetitions": 80, "samples_per_class": 500, "stale_gradient": False}),
        (STRICT, "unsir", {"impair": {"batch_size": 32}, "repair": {"batch_size": 128}}),
        (PAPER, "fisher", FISHER | {"forget_rows": True}),  # in the class task alone
        ("task=subclass protocol=strict", "fisher", FISHER | {"forget_rows": False}),
        ("task=random protocol=paper", "fisher", FISHER | {"forget_rows": False}),
    ):
        method = compose_methods(*run.split())[name]
        for option, value in expected.items():
            found = getattr(method, option)
            assert ({key: getattr(found, key) for key in value} if isinstance(value, dict) else found) == value


def test_retain_accuracy_of_unsir_is_measured_in_batches_of_32():
    metric = compose_config("method=unsir", "protocol=paper").metric
    assert metric.retain_accuracy.batch_size == metric.gap.metrics[0].batch_size == 32
    assert metric.forget_accuracy.batch_size == 64
    assert compose_config("method=ssd", "protocol=paper").metric.retain_accuracy.batch_size == 64


def test_under_paper_retained_test_images_are_counted_class_by_class_unless_the_task_is_random():
    for overrides, expected in (
        (PAPER, "by_class"), ("task=subclass protocol=paper", "by_class"),
        ("task=random protocol=paper", None), ("task=class protocol=strict", None),
        ("task=class protocol=paper switched=accuracy", None),
    ):  # fmt: skip
        metric = without_about(compose_config(*overrides.split()).metric)
        found = [m.get("order") for m in (metric["retain_accuracy"], metric["gap"]["metrics"][0])]
        assert found == [expected, expected]
        assert "order" not in metric["forget_accuracy"]


def test_under_paper_the_vit_starts_as_in_the_released_code_and_under_strict_as_in_timm():
    options = {"linear_init": True, "layer_norm_eps": 1e-12}
    paper, strict = (cells_of(["model=vit", f"protocol={name}"])[0].scientific for name in ("paper", "strict"))
    assert paper["model"] == strict["model"] | options
    assert paper["preprocessing"]["mean"] == [0.50708, 0.48655, 0.44092]
    assert paper["preprocessing"]["std"] == [0.26733, 0.25644, 0.27615]
    (switched,) = cells_of(["model=vit", "protocol=paper", "switched=vit_start"])
    assert switched.scientific["model"] == strict["model"]
