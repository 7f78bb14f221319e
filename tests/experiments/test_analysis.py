"""Analysis of people's own files: units are compared, not rows, and wrong files are refused with the row."""

import csv
import json
import math
import random
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from experiments.analysis import analyze, needed_columns, parse_metric
from experiments.comparison import Plan
from experiments.rows import read_file, read_rows
from experiments.sufficient import Metric
from gateway.cli.intervals import bar
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


def analyzed(rows, metrics=(BOUGHT,), *, method="always_valid", covariate=None, shares=None, is_sorted=False, control="a", **plan: object):
    chunks = read_rows(rows, "user", "variant", needed_columns(metrics, covariate))
    plan = Plan(method=method, **plan)
    return analyze(chunks, metrics, control=control, plan=plan, covariate=covariate, shares=shares, is_sorted=is_sorted)


def test_fixed_proportions_are_asymptotic_where_cells_are_large_and_exact_where_they_are_small():
    (found,) = analyzed(rows_of({"a": (48, 80), "b": (56, 70)}), method="fixed")["comparisons"]
    assert (found["difference"], found["lower"], found["upper"]) == pytest.approx((0.2, 0.0533, 0.3377), abs=5e-5)
    assert (found["basis"], found["test"]) == ("asymptotic", "score")
    (found,) = analyzed(rows_of({"a": (3, 500), "b": (1, 1)}), method="fixed")["comparisons"]
    assert (found["basis"], found["test"], found["p_value"]) == ("exact", "fisher", pytest.approx(8 / 501))


def test_a_planned_look_at_tiny_cells_is_too_few_and_no_certainty():
    for metrics in ([BOUGHT], [SPENT]):
        (found,) = analyzed(rows_of({"a": (3, 500), "b": (1, 1)}), metrics, method="group_sequential", planned_units=1000)["comparisons"]
        assert (found["verdict"], found["lower"]) == ("too few", None)


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
    rows = [{"user": str(n), "variant": "ab"[n % 2], "bought": rng.choice("01"), "spent": "1"} for n in range(800) for _ in range(5)]
    (found,) = analyzed(rows)["comparisons"]
    assert (found["basis"], found["n"]) == ("asymptotic", [400, 400])


def test_a_unit_in_two_arms_is_left_out_and_counted():
    rows = [*rows_of({"a": (5, 100), "b": (5, 100)}), {"user": "a1", "variant": "b", "bought": "1", "spent": "1"}]
    result = analyzed(rows)
    assert (result["units"], result["in_two_arms"]) == ({"a": 99, "b": 100}, 1)


def test_few_units_give_no_asymptotic_interval():
    (found,) = analyzed(rows_of({"a": (1, 499), "b": (1, 600)}), [SPENT])["comparisons"]
    assert (found["lower"], found["verdict"]) == (None, "too few")
    assert "499 units in an arm; an asymptotic confidence sequence needs 500" in found["note"]


def test_an_arm_without_values_is_said_to_have_none():
    rows = [row | ({"bought": ""} if row["variant"] == "b" else {}) for row in rows_of({"a": (5, 50), "b": (5, 50)})]
    (found,) = analyzed(rows)["comparisons"]
    assert (found["difference"], found["means"][0], found["verdict"]) == (None, None, "no data")


@pytest.mark.parametrize(("shares", "valid"), [(None, False), ({"a": 2, "b": 1}, True)])
def test_a_sample_ratio_off_makes_the_result_invalid(shares, valid):
    assert analyzed(rows_of({"a": (1, 2000), "b": (1, 1000)}), shares=shares)["valid"] is valid


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bought": "2"}, "row 2: `2` in column `bought` is not 0 or 1"),
        ({"bought": "nan"}, "row 2: `nan` in column `bought` is not a number"),
        ({"bought": "yes"}, "row 2: `yes` in column `bought` is not a number"),
        ({"bought": "1e200"}, "row 2: `1e200` in column `bought` is not a number below 1e150"),
        ({"variant": ""}, "row 2 has an empty arm"),
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


@pytest.mark.parametrize(
    "text", ["bought", "bought:rate", ":mean", "x:ratio:a/", "x:ratio:/b", "x:quantile:ms", "x:quantile:ms@1.5", "x:quantile:@0.5"]
)
def test_a_metric_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match=r"write `NAME:TYPE`|a ratio's column is|a quantile's column is"):
        parse_metric(text)


# --- types, methods, files --------------------------------------------------------------------------------------------


def shop(units=2000, seed=1):
    """Several rows a unit, a covariate from before, and an effect of 0.3 on `spent`."""
    rng = random.Random(seed)  # noqa: S311 - test data
    rows = []
    for n in range(units):
        before, arm = rng.gauss(10, 2), "ab"[n % 2]
        rows += [
            {
                "user": f"u{n:05}",
                "variant": arm,
                "bought": str(int(rng.random() < 0.3)),
                "spent": str(0.8 * before + rng.gauss(0.3 * (arm == "b"), 1)),
            }
            | {"before": "" if n % 50 == 0 else str(before), "views": str(rng.randint(1, 5)), "ms": str(rng.lognormvariate(4, 0.5))}
            for _ in range(rng.randint(1, 4))
        ]
    return rows


EVERY = [
    parse_metric(text)
    for text in ("spent:mean", "bought:proportion", "ctr:ratio:bought/views", "rate:ratio:bought", "n:count:bought", "p95:quantile:ms@0.9")
]


@pytest.mark.parametrize("method", ["always_valid", "fixed", "bayesian", "group_sequential"])
def test_every_type_is_compared_by_every_method(method):
    found = analyzed(shop(), EVERY, method=method, planned_units=4000, covariate="before")
    by_name = {one["metric"]: one for one in found["comparisons"]}
    assert [one["metric"] for one in found["comparisons"]] == [metric.name for metric in EVERY]
    assert by_name["spent"]["verdict"] == "higher"
    assert by_name["spent"]["cuped"]["variance_factor"] < 0.6
    assert by_name["spent"]["cuped"]["units_without_covariate"] == 40
    for one in found["comparisons"]:
        assert one["lower"] <= one["difference"] <= one["upper"]
        assert one["note"] is None or method == "bayesian"
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_ratio_is_that_of_the_totals_and_its_interval_is_by_unit():
    rows = shop()
    (found,) = analyzed(rows, [parse_metric("ctr:ratio:bought/views")], method="fixed")["comparisons"]
    totals = {arm: [sum(float(row[name]) for row in rows if row["variant"] == arm) for name in ("bought", "views")] for arm in "ab"}
    assert found["means"] == pytest.approx([totals["b"][0] / totals["b"][1], totals["a"][0] / totals["a"][1]])
    repeated = analyzed(rows * 10, [parse_metric("ctr:ratio:bought/views")], method="fixed")["comparisons"][0]
    assert (repeated["lower"], repeated["upper"]) == pytest.approx((found["lower"], found["upper"]))


def test_a_covariate_narrows_the_interval_and_moves_the_estimate_little():
    raw, adjusted = (analyzed(shop(), [EVERY[0]], method="fixed", covariate=covariate)["comparisons"][0] for covariate in (None, "before"))
    assert adjusted["upper"] - adjusted["lower"] < 0.75 * (raw["upper"] - raw["lower"])
    assert abs(adjusted["difference"] - raw["difference"]) < (raw["upper"] - raw["lower"]) / 2


def test_rows_that_fix_a_threshold_count_for_nothing_else():
    rows = shop(200)
    found = analyzed(rows, [parse_metric("p:quantile:ms@0.9")], method="fixed")["comparisons"][0]
    first = [float(row["ms"]) for row in rows if row["variant"] == "a"][:100]
    assert found["threshold"] == sorted(first)[89]
    assert sum(found["n"]) < 150


def test_sorted_rows_give_the_same_and_need_no_table():
    rows = shop()
    whole = analyzed(rows, EVERY, covariate="before")
    streamed = analyzed(rows, EVERY, covariate="before", is_sorted=True)
    assert streamed.pop("comparisons") == [
        {key: pytest.approx(value, rel=1e-9) if isinstance(value, (float, list, dict)) else value for key, value in one.items()}
        for one in whole.pop("comparisons")
    ]
    assert streamed == whole


@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize("chunk_rows", [1, 2, 7])
def test_chunks_of_any_size_give_the_same(monkeypatch, chunk_rows, is_sorted):
    rows = shop(60)
    rows.append(rows[-1] | {"variant": "a"})
    whole = analyzed(rows, EVERY, method="fixed")
    monkeypatch.setattr("experiments.rows.CHUNK_ROWS", chunk_rows)
    found = analyzed(rows, EVERY, method="fixed", is_sorted=is_sorted)
    assert (found["units"], found["in_two_arms"], found["rows"]) == (whole["units"], 1, len(rows))
    for one, other in zip(found["comparisons"], whole["comparisons"], strict=True):
        assert (one["lower"], one["upper"]) == pytest.approx((other["lower"], other["upper"]))


def test_a_file_that_is_not_sorted_is_refused_with_the_row():
    rows = rows_of({"b": (1, 3), "a": (1, 3)})
    with pytest.raises(ValueError, match="row 5: unit `a0` comes after a larger one"):
        analyzed(rows, is_sorted=True)


def test_several_comparisons_are_corrected_holm_for_the_primary_metric():
    rows = rows_of({"a": (300, 1000), "b": (345, 1000), "c": (330, 1000)})
    found = analyzed(rows, [BOUGHT, SPENT], method="fixed")["comparisons"]
    assert [one["role"] for one in found] == ["primary", "primary", "secondary", "secondary"]
    assert found[0]["p_adjusted"] == pytest.approx(2 * found[0]["p_value"])
    assert found[1]["p_adjusted"] == pytest.approx(found[1]["p_value"])
    assert [one["shown_after_correction"] for one in found] == [False, False, False, False]
    assert analyzed(rows_of({"a": (300, 1000), "b": (500, 1000)}))["comparisons"][0]["shown_after_correction"] is True


def test_a_result_at_a_look_names_boundary_and_what_was_spent():
    found = analyzed(rows_of({"a": (300, 1000), "b": (360, 1000)}), method="group_sequential", planned_units=4000, earlier_looks=(0.25,))
    look = found["comparisons"][0]["look"]
    assert look["fractions"] == [0.25, 0.5]
    assert look["boundary"] == pytest.approx(2.963, abs=1e-3)
    assert look["alpha_spent"] == pytest.approx(0.00305, abs=1e-5)


def test_an_early_look_concludes_nothing():
    found = analyzed(rows_of({"a": (6, 20), "b": (18, 20)}), method="group_sequential", planned_units=80_000)["comparisons"][0]
    assert (found["lower"], found["verdict"]) == (None, "not shown")


@pytest.mark.parametrize("method", ["always_valid", "fixed", "bayesian"])
def test_values_that_do_not_vary_break_nothing(method):
    rows = [{"user": f"{arm}{n}", "variant": arm, "bought": "0", "spent": "2"} for arm in "ab" for n in range(400)]
    for metric in (BOUGHT, SPENT, Metric("r", "ratio", "bought", "bought")):
        found = analyzed(rows, [metric], method=method)
        json.dumps(found, allow_nan=False)
        assert found["comparisons"][0]["verdict"] in {"not shown", "too few"}


def test_an_arm_of_one_unit_breaks_nothing():
    for method in ("always_valid", "fixed", "bayesian"):
        found = analyzed(rows_of({"a": (3, 500), "b": (1, 1)}), [BOUGHT, SPENT], method=method)
        json.dumps(found, allow_nan=False)
        rate, mean = found["comparisons"]
        assert -1 <= rate["lower"] < rate["upper"] <= 1, method
        assert (mean["lower"], mean["upper"]) == (None, None), "one unit has no spread, so there is no interval"
        assert mean["verdict"] in {"not shown", "too few"}


def test_a_column_of_many_arms_is_refused():
    with pytest.raises(ValueError, match="more than 64 different values"):
        analyzed([{"user": str(n), "variant": str(n), "bought": "1"} for n in range(70)])


def test_parquet_gives_what_csv_gives(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = shop(300)
    table = pa.table(
        {name: [row[name] for row in rows] for name in ("user", "variant")}
        | {name: pa.array([float(row[name]) if row[name] else None for row in rows]) for name in ("bought", "spent", "before")}
    )
    parquet.write_table(table, tmp_path / "visits.parquet")
    metrics = [EVERY[0], EVERY[1]]
    chunks = read_file(tmp_path / "visits.parquet", "user", "variant", needed_columns(metrics, "before"))
    plan = Plan(method="fixed")
    assert analyze(chunks, metrics, control="a", covariate="before", plan=plan) == analyzed(rows, metrics, covariate="before", method="fixed")


def test_a_file_that_is_no_parquet_and_one_with_nan_are_refused(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "x.parquet"
    path.write_bytes(b"user,variant\n")
    with pytest.raises(ValueError, match="not readable as Parquet"):
        list(read_file(path, "user", "variant", ["x"]))
    parquet.write_table(pa.table({"user": [1, 2], "variant": ["a", "b"], "x": [1.0, float("nan")]}), path)
    with pytest.raises(ValueError, match="row 3: `nan` in column `x`"):
        list(read_file(path, "user", "variant", ["x"]))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the file is empty"),
        ("user,bought\n1,2\n", "no column `variant`; columns: `user`, `bought`"),
        ("user,variant,bought,bought\n1,a,1,1\n", "column `bought` is there twice"),
        ("user,variant,bought\n1,a,1\n2,b\n", "row 3 has 2 columns, the header has 3"),
        ("user,variant,bought\n1,a,1\n2,b,inf\n", "row 3: `inf`"),
        ('user,variant,bought\n1,"a,1\n', "row 2 has 2 columns"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(tmp_path, text, complaint):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        list(read_file(path, "user", "variant", ["bought"]))


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=6)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(cells, cells, st.sampled_from(["0", "1", "2.5", ""])), min_size=1, max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_csv_is_read_as_the_csv_module_reads_it(tmp_path, rows, line_end, plain, quoted):
    """Cells may hold commas, quotes and line ends; blocks end anywhere."""
    if plain:
        rows = [tuple("".join(c for c in cell if c.isalnum() or c == ".") or "" for cell in row) for row in rows]
        rows = [(unit or "u", arm or "a", value) for unit, arm, value in rows]
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
        csv.writer(file, lineterminator=line_end, quoting=quoting).writerows(
            [("arm", "x", "unit"), *((arm, value, unit) for unit, arm, value in rows)]
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.rows.BLOCK_CHARACTERS", 7)
        chunks = list(read_file(path, "unit", "arm", ["x"]))
    assert [(unit, arm) for chunk in chunks for unit, arm in zip(chunk.units, chunk.arms, strict=True)] == [(unit, arm) for unit, arm, _ in rows]
    found = [value for chunk in chunks for value in chunk.values["x"].tolist()]
    assert found == pytest.approx([float(value) if value else math.nan for _, _, value in rows], nan_ok=True)


def test_the_row_of_a_fault_is_right_wherever_blocks_end(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user,variant,bought\n" + "1,a,1\n" * 50 + "2,b,oops\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.rows.BLOCK_CHARACTERS", 11)
        with pytest.raises(ValueError, match="row 52: `oops`"):
            list(read_file(path, "user", "variant", ["bought"]))


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


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "bayes"),
        ("--method", "group_sequential"),
        ("--prior", "x"),
        ("--look", "-1", "--method", "group_sequential", "--planned-units", "200"),
        ("--share", "a"),
        ("--metric", "x:y"),
        ("--unit", "nobody"),
        ("--control", "z"),
    ],
)
def test_the_command_exits_2_for_wrong_usage(tmp_path, options):
    assert run(tmp_path, {"a": (4, 80), "b": (5, 80)}, *options).exit_code == 2


def test_the_command_draws_the_intervals(tmp_path):
    drawn = tmp_path / "intervals.svg"
    assert run(tmp_path, {"a": (48, 800), "b": (96, 800)}, "--svg", str(drawn)).exit_code == 0
    ET.fromstring(drawn.read_text())  # noqa: S314 - our own file
    assert "bought: b" in drawn.read_text()


@pytest.mark.parametrize(
    ("found", "drawn"),
    [
        ({"lower": -1.0, "upper": 1.0, "difference": 0.0}, "├──────────────●──────────────┤"),
        ({"lower": None, "upper": None, "difference": None}, " " * 15 + "|" + " " * 15),
    ],
)
def test_an_interval_is_drawn_with_its_ends_and_zero(found, drawn):
    assert bar(found, (-1.0, 1.0)) == drawn
