"""The example versions: deterministic, honest, different in quality."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from examples.models import train as training

SPLIT = training.load_split()


@pytest.fixture(scope="module")
def versions():
    return {name: training.train(name, SPLIT) for name in training.RECIPES}


def test_digest_is_sha256_and_the_same_when_trained_again(versions):
    for name, version in versions.items():
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", version.digest)
        assert training.train(name).digest == version.digest


def test_versions_have_different_digests(versions):
    assert len({version.digest for version in versions.values()}) == len(versions)


@pytest.mark.parametrize("name", sorted(training.RECIPES))
def test_changing_one_training_value_changes_the_digest(versions, name):
    features = SPLIT.train_features.copy()
    features[0, training.FEATURES.index("texture")] += 3.0
    changed = training.train(name, dataclasses.replace(SPLIT, train_features=features))
    assert changed.digest != versions[name].digest


def test_digest_changes_with_one_fitted_parameter(versions):
    version = versions["3"]
    logistic = training.train("3", SPLIT).estimator
    logistic.named_steps["logistic"].intercept_ = logistic.named_steps["logistic"].intercept_ + 1e-12
    assert training._digest("3", version.recipe, SPLIT, logistic) != version.digest


def test_digest_changes_with_one_threshold_of_one_tree(versions):
    estimator = training.train("4", SPLIT).estimator
    estimator.estimators_[-1, 0].tree_.threshold[0] += 1e-9
    assert training._digest("4", versions["4"].recipe, SPLIT, estimator) != versions["4"].digest


def test_held_out_rows_are_never_trained_on():
    train_rows = {row.tobytes() for row in SPLIT.train_features}
    assert not train_rows & {row.tobytes() for row in SPLIT.held_out_features}


def test_class_one_is_malignant_the_rarer_finding():
    assert 0.3 < SPLIT.held_out_classes.mean() < 0.45


def test_accuracy_is_what_the_held_out_rows_say(versions):
    for version in versions.values():
        classes, scores = version.predict(SPLIT.held_out_features)
        assert version.accuracy == np.mean(classes == SPLIT.held_out_classes)
        assert ((scores >= 0.5) == (classes == 1)).all()
        assert scores.min() >= 0
        assert scores.max() <= 1


def test_candidate_is_clearly_better_than_incumbent_and_both_beat_the_majority_class(versions):
    majority = max(SPLIT.held_out_classes.mean(), 1 - SPLIT.held_out_classes.mean())
    assert versions["3"].accuracy > majority
    assert versions["4"].accuracy > versions["3"].accuracy + 0.1


def test_unknown_version_names_the_known_ones():
    with pytest.raises(KeyError, match="no version `9`; there are `3`, `4`"):
        training.train("9")
