"""Analysis of people's own files: units are compared, not rows, and wrong files are refused with the row."""

import json
import random

import pytest
from typer.testing import CliRunner

from experiments.analysis import Metric, analyze, parse_metric
from gateway.cli.main import app

BOUGHT = Metric("bought", "proportion", "bought")
SPENT = Metric("spent", "mean", "spent")


def rows_of(counts):
    """counts: arm -> (buyers, units), one row a unit."""
    return [
        {"user": f"{arm}{n}", "variant": arm, "bought": str(int(n < buyers)), "spent": str(n % 7)}
        for arm, (buyers, units) in counts.items()
        for n in range(units)
    ]


def analyzed(rows, metrics=(BOUGHT,), **options: object):
    return analyze(rows, unit="user", arm="variant", metrics=metrics, control="a", **options)


def test_fixed_proportions_agree_with_newcombe():
    (found,) = analyzed(rows_of({"a": (48, 80), "b": (56, 70)}), method="fixed")["comparisons"]
    assert (found["difference"], found["lower"], found["upper"]) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert found["basis"] == "exact"


def test_always_valid_is_wider_than_fixed_and_holds_the_estimate():
    for metrics in ([BOUGHT], [SPENT]):
        wide, narrow = (
            analyzed(rows_of({"a": (300, 1000), "b": (400, 1000)}), metrics, method=method)["comparisons"][0] for method in ("always_valid", "fixed")
        )
        assert wide["lower"] < narrow["lower"] < narrow["difference"] < narrow["upper"] < wide["upper"]


def test_repeating_a_units_rows_adds_no_evidence():
    rows = rows_of({"a": (300, 1000), "b": (350, 1000)})
    assert analyzed(rows * 3)["comparisons"] == analyzed(rows)["comparisons"]


def test_rows_that_differ_within_a_unit_make_it_asymptotic_by_unit_means():
    rng = random.Random(1)  # noqa: S311 - test data
    rows = [{"user": str(n), "variant": "ab"[n % 2], "bought": rng.choice("01"), "spent": "1"} for n in range(400) for _ in range(5)]
    (found,) = analyzed(rows)["comparisons"]
    assert (found["basis"], found["n"]) == ("asymptotic", [200, 200])


def test_a_unit_in_two_arms_is_left_out_and_counted():
    rows = [*rows_of({"a": (5, 100), "b": (5, 100)}), {"user": "a1", "variant": "b", "bought": "1", "spent": "1"}]
    result = analyzed(rows)
    assert (result["units"], result["in_two_arms"]) == ({"a": 99, "b": 100}, 1)


def test_few_units_give_no_asymptotic_interval():
    (found,) = analyzed(rows_of({"a": (1, 49), "b": (1, 60)}), [SPENT])["comparisons"]
    assert found["lower"] is None
    assert "too few" in found["note"]


def test_an_arm_without_values_has_the_widest_interval():
    rows = [row | ({"bought": ""} if row["variant"] == "b" else {}) for row in rows_of({"a": (5, 50), "b": (5, 50)})]
    (found,) = analyzed(rows)["comparisons"]
    assert (found["difference"], found["means"][0]) == (None, None)
    assert found["upper"] > 0.9


@pytest.mark.parametrize(("shares", "valid"), [(None, False), ({"a": 2, "b": 1}, True)])
def test_a_sample_ratio_off_makes_the_result_invalid(shares, valid):
    assert analyzed(rows_of({"a": (1, 2000), "b": (1, 1000)}), shares=shares)["valid"] is valid


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bought": "2"}, "row 2: `2` in column `bought` is not 0 or 1"),
        ({"bought": "nan"}, "is not 0 or 1"),
        ({"user": ""}, "row 2 has an empty unit"),
        ({"variant": None}, "row 2 has no column `variant`"),
    ],
)
def test_a_wrong_row_is_refused_by_its_number(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        analyzed([{"user": "u", "variant": "a", "bought": "1", "spent": "1"} | change])


def test_a_missing_control_names_the_arms_there_are():
    with pytest.raises(ValueError, match="arms seen: `b`"):
        analyzed(rows_of({"b": (1, 5)}))


@pytest.mark.parametrize("text", ["bought", "bought:rate", ":mean"])
def test_a_metric_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="NAME:proportion"):
        parse_metric(text)


# --- the command ------------------------------------------------------------------------------------------------------


def run(tmp_path, counts, *options: str):
    path = tmp_path / "visits.csv"
    path.write_text("user,variant,bought\n" + "".join(f"{row['user']},{row['variant']},{row['bought']}\n" for row in rows_of(counts)))
    return CliRunner().invoke(
        app, ["experiment", "analyze", str(path), "--unit", "user", "--arm", "variant", "--metric", "bought:proportion", "--control", "a", *options]
    )


def test_the_command_prints_json(tmp_path):
    ran = run(tmp_path, {"a": (48, 80), "b": (56, 80)}, "--method", "fixed", "--json")
    assert ran.exit_code == 0
    assert json.loads(ran.stdout)["units"] == {"a": 80, "b": 80}


def test_the_command_prints_a_table_and_exits_1_when_the_ratio_is_off(tmp_path):
    assert "interval" in run(tmp_path, {"a": (48, 80), "b": (56, 80)}).stdout
    assert run(tmp_path, {"a": (48, 2000), "b": (56, 900)}).exit_code == 1


@pytest.mark.parametrize("options", [("--method", "bayes"), ("--share", "a"), ("--metric", "x:y"), ("--unit", "nobody"), ("--control", "z")])
def test_the_command_exits_2_for_wrong_usage(tmp_path, options):
    assert run(tmp_path, {"a": (4, 80), "b": (5, 80)}, *options).exit_code == 2
