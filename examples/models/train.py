"""Train the example's model versions, in process, from a seed.

Purpose: two honest versions of one model that differ clearly in quality, fitted in under a second, with a digest that names exactly
what is served.

Rules:
- Data: the Wisconsin breast cancer set bundled with scikit-learn (569 biopsies; Street, Wolberg & Mangasarian 1993), its ten `mean` columns.
  Class `1` is *malignant*, the finding one must not miss.
- One seeded, stratified split for all versions. The held-out part is never fitted on; it is the traffic of the demo.
- Every version accepts the same ten inputs, so that one request can go to any of them. Version 3 reads two of the ten.
- A version's digest is the SHA-256 of its recipe, the split, and its fitted parameters. Same seed and same library, same digest.
- Quality is measured on the held-out rows each time; no number about quality is written down here.

Example:
    $ python -m examples.models.train
    version 3  held-out accuracy ... (... of 228)  sha256:...
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

MODEL = "tumour-triage"
"""Name of the model in paths, records and configuration."""

FEATURES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave_points",
    "symmetry",
    "fractal_dimension",
)
"""Inputs of every version, in column order: the `mean ...` columns of the data set."""

SPLIT_SEED = 20
HELD_OUT_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a version is made: everything that, with the split, decides its parameters."""

    kind: str
    """`logistic` or `boosting`."""
    features: tuple[str, ...]
    seed: int


RECIPES = {
    "3": Recipe(kind="logistic", features=("texture", "smoothness"), seed=3),
    "4": Recipe(kind="boosting", features=FEATURES, seed=4),
}
"""Version name -> recipe. 3 is the incumbent, 4 the candidate."""


@dataclass(frozen=True, slots=True)
class Split:
    """Features of shape (n, 10) and classes of shape (n,), 1 = malignant, for both parts."""

    train_features: np.ndarray
    train_classes: np.ndarray
    held_out_features: np.ndarray
    held_out_classes: np.ndarray


@dataclass(frozen=True, slots=True)
class TrainedVersion:
    """A fitted version and what was measured on rows it has not seen."""

    name: str
    recipe: Recipe
    estimator: Any
    """A fitted scikit-learn classifier over the columns of `recipe.features`."""
    digest: str
    """`sha256:<hex>` of recipe, split and fitted parameters."""
    held_out_rows: int
    held_out_correct: int

    @property
    def accuracy(self) -> float:
        """Share of held-out rows classified rightly."""
        return self.held_out_correct / self.held_out_rows

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Classify rows.

        Args:
            features: shape (n, 10), columns as `FEATURES`.

        Returns:
            Classes of shape (n,), 0 or 1, and scores of shape (n,): the probability of class 1.
        """
        scores = self.estimator.predict_proba(features[:, _columns(self.recipe.features)])[:, 1]
        return (scores >= 0.5).astype(np.int64), scores


def load_split() -> Split:
    """Return the seeded split. Reads a file inside scikit-learn, no network."""
    data = load_breast_cancer()
    features = np.asarray(data.data, dtype=np.float64)[:, : len(FEATURES)]
    classes = 1 - np.asarray(data.target, dtype=np.int64)  # the set codes benign as 1
    train_x, held_x, train_y, held_y = train_test_split(features, classes, test_size=HELD_OUT_SHARE, random_state=SPLIT_SEED, stratify=classes)
    return Split(train_x, train_y, held_x, held_y)


def train(name: str, split: Split | None = None) -> TrainedVersion:
    """Fit version `name` and measure it on the held-out rows. Takes well under a second.

    Raises:
        KeyError: there is no recipe of that name.
    """
    if name not in RECIPES:
        raise KeyError(f"no version `{name}`; there are {', '.join(f'`{known}`' for known in sorted(RECIPES))}")
    recipe = RECIPES[name]
    split = split or load_split()
    estimator = _unfitted(recipe).fit(split.train_features[:, _columns(recipe.features)], split.train_classes)
    trained = TrainedVersion(name, recipe, estimator, _digest(name, recipe, split, estimator), len(split.held_out_classes), 0)
    classes, _ = trained.predict(split.held_out_features)
    correct = int(np.sum(classes == split.held_out_classes))
    return TrainedVersion(name, recipe, estimator, trained.digest, trained.held_out_rows, correct)


def _columns(names: Sequence[str]) -> list[int]:
    return [FEATURES.index(name) for name in names]


def _unfitted(recipe: Recipe) -> Any:
    if recipe.kind == "logistic":
        return Pipeline([("scale", StandardScaler()), ("logistic", LogisticRegression(random_state=recipe.seed))])
    return GradientBoostingClassifier(n_estimators=80, max_depth=2, learning_rate=0.2, subsample=0.8, random_state=recipe.seed)


def _digest(name: str, recipe: Recipe, split: Split, estimator: Any) -> str:
    """Hash what decides every future answer of this version.

    Floats enter as `float.hex()`: exact, and no two programs can disagree about how to print them. The training rows enter too, so that a
    change of the data shows even where the parameters happen to agree.
    """
    rows = np.ascontiguousarray(split.train_features).tobytes() + split.train_classes.astype("<i8").tobytes()
    description = {
        "model": MODEL,
        "version": name,
        "kind": recipe.kind,
        "features": list(recipe.features),
        "seed": recipe.seed,
        "training_rows": hashlib.sha256(rows).hexdigest(),
        "parameters": dict(_parameters(estimator)),
    }
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def _parameters(estimator: Any) -> Iterator[tuple[str, Any]]:
    """Yield every fitted number the prediction depends on, by name."""
    if isinstance(estimator, Pipeline):
        scale, logistic = estimator.named_steps["scale"], estimator.named_steps["logistic"]
        yield "mean", _exact(scale.mean_)
        yield "scale", _exact(scale.scale_)
        yield "coefficients", _exact(logistic.coef_)
        yield "intercept", _exact(logistic.intercept_)
        return
    yield "prior", _exact(estimator.init_.class_prior_)
    yield "learning_rate", float(estimator.learning_rate).hex()
    for number, stage in enumerate(estimator.estimators_[:, 0]):
        tree = stage.tree_
        yield (
            f"tree_{number:03d}",
            {
                "feature": tree.feature.tolist(),
                "left": tree.children_left.tolist(),
                "right": tree.children_right.tolist(),
                "threshold": _exact(tree.threshold),
                "value": _exact(tree.value),
            },
        )


def _exact(array: np.ndarray) -> list[str]:
    return [float(number).hex() for number in np.ravel(array)]


def main() -> None:
    """Train every version and print what was measured."""
    parser = argparse.ArgumentParser(description="Train the example versions and print digest and held-out accuracy.")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    as_json = parser.parse_args().json
    split = load_split()
    versions = [train(name, split) for name in sorted(RECIPES)]
    if as_json:
        print(json.dumps({v.name: {"digest": v.digest, "held_out_accuracy": v.accuracy} for v in versions}, indent=2))
        return
    for v in versions:
        print(f"version {v.name}  held-out accuracy {v.accuracy:.4f} ({v.held_out_correct} of {v.held_out_rows})  {v.digest}")


if __name__ == "__main__":
    main()
