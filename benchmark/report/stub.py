"""STUB until every method and metric has its `about` in YAML; then this file and its import in about.py go."""

from typing import Any

LABELS = ["Baseline", "Retrain", "Finetune", "Bad teacher", "UNSIR", "Amnesiac", "Fisher", "SSD"]
METHODS: dict[str, dict[str, Any]] = {
    label.lower().replace(" ", "_"): {"label": label, "order": order, "ranked": label not in ("Baseline",)}
    for order, label in enumerate(LABELS, start=1)
}
METRICS: dict[str, dict[str, Any]] = {
    "retain_accuracy": {"label": "D_r", "latex": r"$\mathcal{D}_r$", "order": 1, "unit": "percent", "scale": 100},
    "forget_accuracy": {"label": "D_f", "latex": r"$\mathcal{D}_f$", "order": 2, "unit": "percent", "scale": 100},
    "mia": {"label": "MIA", "order": 3, "unit": "percent", "scale": 100},
    "gap": {"label": "gap", "order": 4, "unit": "percent", "scale": 100},
    "changed_fraction": {"label": "changed", "order": 6, "unit": "percent", "scale": 100},
    "newest_accuracy": {"label": "newest", "order": 7, "unit": "percent", "scale": 100},
    "js_distance": {"label": "JS distance", "order": 8, "unit": "", "scale": 1, "decimals": 4},
    "zrf": {"label": "ZRF", "order": 9, "unit": "", "scale": 1, "decimals": 4},
}
DERIVED: dict[str, dict[str, Any]] = {
    "rank": {"label": "rank", "order": 5},
    "seconds": {"label": "t [s]", "order": 8, "unit": "s"},
}
