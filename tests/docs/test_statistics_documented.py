"""`docs/statistics.md` names every statistic and every key of the JSON; every statistic says where it comes from."""

import inspect
import json
import re

import pytest
from pages import page
from typer.testing import CliRunner

from experiments import stats
from experiments.stats import power
from gateway.cli.main import app

STATISTICS = sorted(
    name for name in stats.__all__ if inspect.isfunction(getattr(stats, name)) and name not in {"normal_quantile", "normal_tail", "normal_estimate"}
)
PARTS = {
    # Steps of a statistic that the page names by what they make.
    "asymptotic_half_width",
    "asymptotic_rho",
    "cuped_theta",
    "crossing_probabilities",
    "difference_bounds",
    "difference_outcomes",
    "difference_sd",
    "log_asymptotic_e_value",
    "log_betting_capital",
    "spent",
    "sum_log_shares",
    "tuned_prior",
}


@pytest.mark.parametrize("name", STATISTICS)
def test_every_statistic_is_on_the_page(name):
    assert name in PARTS or f"`{name}`" in page("statistics.md")


@pytest.mark.parametrize("function", [getattr(stats, name) for name in STATISTICS] + [power.units_for_mean, power.units_for_proportions])
def test_every_statistic_says_its_source(function):
    assert "Source: " in (inspect.getdoc(function) or "") or function.__name__ in {"sum_log_shares", "tuned_prior"}


@pytest.mark.parametrize(
    "options", [(), ("--method", "fixed"), ("--method", "bayesian"), ("--method", "group_sequential", "--planned-units", "2000")], ids=str
)
def test_every_key_of_an_analysis_is_on_the_page(tmp_path, options):
    rows = [f"u{n},{'ab'[n % 2]},{n % 3 == 0:d},{n % 7},{n % 5}" for n in range(1500)]
    (tmp_path / "x.csv").write_text("\n".join(["unit,arm,bought,ms,before", *rows]) + "\n")
    metrics = ("--metric", "bought:proportion", "--metric", "slow:quantile:ms@0.9", "--metric", "ms:mean")
    words = ["experiment", "analyze", str(tmp_path / "x.csv"), "--unit", "unit", "--arm", "arm", "--control", "a", "--json", *metrics, *options]
    with_covariate, without = (json.loads(CliRunner().invoke(app, [*words, *more]).stdout) for more in (("--covariate", "before"), ()))
    assert keys(with_covariate) | keys(without) <= set(re.findall(r"`(\w+)`", page("statistics.md"))) | {"a", "b"}


def test_every_key_of_a_plan_is_on_the_page():
    ran = CliRunner().invoke(app, ["experiment", "power", "--rate", "10%", "--effect", "1pp", "--units-per-week", "20000", "--json"])
    found = json.loads(ran.stdout)
    found.pop("question")
    assert keys(found) <= set(re.findall(r"`(\w+)`", page("statistics.md")))


def keys(value):
    if isinstance(value, dict):
        return set(value).union(*(keys(one) for one in value.values()))
    return set().union(*(keys(one) for one in value)) if isinstance(value, list) else set()
