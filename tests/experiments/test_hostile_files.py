"""Files that would make an analysis lie: late covariates, denominators around 0, values without spread, cells of megabytes, other encodings."""

import random

import pytest

from experiments.analysis import analyze, needed_columns, parse_metric
from experiments.comparison import Plan
from experiments.rows import read_file, read_rows


def found_in(rows, metric, *, method="always_valid", covariate=None):
    parsed = [parse_metric(metric)]
    chunks = read_rows(rows, "user", "variant", needed_columns(parsed, covariate))
    (found,) = analyze(chunks, parsed, control="a", plan=Plan(method=method), covariate=covariate)["comparisons"]
    return found


def people(units, values):
    return [{"user": str(number), "variant": "ab"[number % 2], **values(number % 2 == 1)} for number in range(units)]


@pytest.mark.parametrize("method", ["always_valid", "fixed"])
def test_a_covariate_from_after_the_exposure_does_not_hide_the_effect_it_is_part_of(method):
    """Treated units spend 1 less because they visit 1 less often: adjusted for the visits nothing would be left of it."""
    rng = random.Random(1)  # noqa: S311 - a simulation

    def values(is_treated):
        visits = rng.gauss(9 if is_treated else 10, 1)
        return {"spent": str(visits + rng.gauss(0, 0.3)), "visits": str(visits)}

    rows = people(3000, values)
    assert found_in(rows, "spent:mean", method=method)["verdict"] == "lower"
    adjusted = found_in(rows, "spent:mean", method=method, covariate="visits")
    assert (adjusted["verdict"], adjusted["lower"]) == ("not shown", None)
    assert "the covariate differs by arm" in adjusted["note"]


def test_a_covariate_from_before_passes_and_one_that_never_varies_changes_nothing():
    rng = random.Random(2)  # noqa: S311 - a simulation
    rows = people(1400, lambda is_treated: {"spent": str(rng.gauss(1.0 if is_treated else 0.0, 1)), "before": str(rng.gauss(0, 1)), "same": "5"})
    assert found_in(rows, "spent:mean", covariate="before")["verdict"] == "higher"
    plain, same = found_in(rows, "spent:mean"), found_in(rows, "spent:mean", covariate="same")
    assert (same["lower"], same["upper"]) == pytest.approx((plain["lower"], plain["upper"]))


def test_a_ratio_whose_denominator_may_be_zero_is_not_compared():
    rng = random.Random(3)  # noqa: S311 - a simulation
    rows = people(1400, lambda _: {"gain": str(rng.gauss(1, 1)), "stake": str(rng.gauss(0.02, 1))})
    found = found_in(rows, "yield:ratio:gain/stake")
    assert (found["verdict"], found["lower"]) == ("not shown", None)
    assert "standard errors from 0" in found["note"]


def test_two_arms_without_any_spread_are_no_certainty():
    found = found_in(people(1400, lambda is_treated: {"spent": "2" if is_treated else "1"}), "spent:mean")
    assert (found["verdict"], found["lower"]) == ("too few", None)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_named_with_its_byte(tmp_path, encoding):
    path = tmp_path / "visits.csv"
    path.write_bytes("user,variant,spent\nzoë,a,1\n".encode(encoding))
    with pytest.raises(ValueError, match="not readable as UTF-8: byte `0x"):
        list(read_file(path, "user", "variant", ["spent"]))


def test_a_cell_of_megabytes_does_not_become_the_message(tmp_path):
    path = tmp_path / "visits.csv"
    path.write_text(f"user,variant,spent\n1,a,{'z' * 3_000_000}\n")
    with pytest.raises(ValueError, match="row 2: `zzz") as refused:
        list(read_file(path, "user", "variant", ["spent"]))
    assert len(str(refused.value)) < 300
