"""Prices and the places of token counts are said strictly: what could not hold is a mistake with a place."""

from __future__ import annotations

import shutil
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.document import ExperimentDocument
from experiments.quantities import parse_price_nano
from gateway.config.compile import Compiled, compile_folder
from gateway.documents import PriceDocument, RouteDocument, SettingsDocument, decode

REFERENCE = Path(__file__).parents[2] / "config"
USAGE = "usage: {input_tokens: /usage/prompt_tokens, output_tokens: /usage/completion_tokens}"


def compiled(folder: Path, *, usage: str = USAGE, cost: str = "", own: str = "", files: dict[str, str] | None = None) -> Compiled:
    """Compile the reference configuration with other parts in the file of `credit-risk`; `own` are prices of version 4."""
    shutil.copytree(REFERENCE, folder / "config")
    model = folder / "config" / "models" / "credit-risk.yaml"
    text = model.read_text().replace("capture:\n", f"capture:\n  {usage}\n", 1) + (f"cost: {cost}\n" if cost else "")
    model.write_text(text.replace("    stage: candidate\n", f"    stage: candidate\n    cost: {own}\n" if own else "    stage: candidate\n", 1))
    for path, added in (files or {}).items():
        (folder / "config" / path).write_text(added)
    return compile_folder(folder / "config")


def route_of(found: Compiled) -> RouteDocument:
    assert found.manifest is not None, [str(issue) for issue in found.issues]
    return msgspec.json.decode(found.objects[found.manifest.models["credit-risk"]], type=RouteDocument)


def test_prices_become_billionths_and_a_versions_own_replace_the_models_whole(tmp_path):
    found = route_of(compiled(tmp_path, cost='{currency: EUR, per_call: 0.0001, per_1000_input_tokens: "0.0005"}', own="{per_1000_output_tokens: 2}"))
    assert (found.currency, found.capture.input_tokens, found.capture.output_tokens) == ("EUR", "/usage/prompt_tokens", "/usage/completion_tokens")
    assert found.versions["3"].price == PriceDocument(per_call_nano=100_000, per_1000_input_tokens_nano=500_000)
    assert found.versions["4"].price == PriceDocument(per_1000_output_tokens_nano=2 * 10**9)


def test_a_model_without_prices_keeps_its_document():
    found = compile_folder(REFERENCE)
    assert found.manifest is not None
    data = found.objects[found.manifest.models["credit-risk"]]
    assert not [word for word in (b"price", b"currency", b"tokens") if word in data]


@pytest.mark.parametrize(
    ("parts", "key", "message"),
    [
        ({"cost": "{per_call: 1}"}, "cost.currency", "missing"),
        ({"cost": "{currency: euro, per_call: 1}"}, "cost.currency", "three capital letters"),
        ({"cost": "{currency: EUR, per_call: 1 EUR}"}, "cost.per_call", "is not a price"),
        ({"cost": "{currency: EUR, per_call: -1}"}, "cost.per_call", "is not a price"),
        ({"cost": "{currency: EUR, per_call: 0.0000000001}"}, "cost.per_call", "is not a price"),
        ({"cost": "{currency: EUR, per_call: 1000001}"}, "cost.per_call", "more than a million"),
        ({"cost": "{currency: EUR, per_token: 1}"}, "cost.per_token", "unknown key"),
        ({"cost": "{currency: EUR}"}, "cost", "names no price, and version `3` has none of its own"),
        ({"cost": "{currency: EUR, per_call: 1}", "own": "{}"}, "versions.4.cost", "names no price"),
        ({"own": "{per_call: 1}"}, "versions.4.cost", "has prices and no currency"),
        ({"usage": "usage: {}"}, "capture.usage", "names neither"),
        ({"usage": "usage: {input_tokens: usage}"}, "capture.usage.input_tokens", "is not a JSON pointer"),
        (
            {"usage": "usage: {input_tokens: /i}", "cost": "{currency: EUR, per_1000_output_tokens: 1}"},
            "cost.per_1000_output_tokens",
            "`capture.usage.output_tokens`",
        ),
    ],
)
def test_a_price_that_cannot_hold_is_refused_where_it_stands(tmp_path, parts, key, message):
    found = [str(issue) for issue in compiled(tmp_path, **parts).issues]
    assert any(f" {key}:" in issue and message in issue for issue in found), found


COST = "metrics:\n  repaid: {type: proportion, better: higher}\n  call_cost: {type: mean, from: cost, better: lower}\n"
SHADOW = """experiment: dear
strategy: shadow
model: credit-risk
arms: {champion: {version: "3"}, shadow: {version: "4"}}
share: 10%
budget: {cost_per_day: 20}
compare: {decision: {kind: label, at: /outputs/0/data/0, max_disagreement: 1%}}
guardrails: {call_cost: {max_harm: 10%}}
deadline: {after: 7d}
"""


def with_shadow(tmp_path: Path, cost: str, text: str = SHADOW) -> Compiled:
    return compiled(tmp_path, cost=cost, files={"experiments/_metrics.yaml": COST, "experiments/dear.yaml": text})


def test_a_shadow_is_compared_and_bounded_by_cost_in_the_models_currency(tmp_path):
    found = with_shadow(tmp_path, "{currency: CHF, per_call: 1}")
    assert found.manifest is not None, [str(issue) for issue in found.issues]
    document = msgspec.json.decode(found.objects[found.manifest.experiments["dear"]], type=ExperimentDocument)
    assert document.shadow is not None
    assert document.shadow.cost_per_day_nano == 20 * 10**9
    assert [(one.metric, one.unit) for one in document.guardrails] == [("call_cost", "CHF per 1,000 calls")]


def test_workers_are_told_the_metrics_that_come_from_feedback_and_no_others(tmp_path):
    files = {"experiments/_metrics.yaml": COST + "  spent: {from: feedback, type: mean, better: higher, range: [0, 100]}\n"}
    done = compiled(tmp_path, cost="{currency: EUR, per_call: 0.02}", files=files)
    assert done.manifest is not None, done.issues
    assert decode(done.objects[done.manifest.settings], SettingsDocument).feedback_metrics == ("repaid", "spent")


def test_cost_of_a_model_that_has_none_is_refused_in_metrics_and_budgets(tmp_path):
    found = [str(issue) for issue in with_shadow(tmp_path, "").issues]
    assert any("`call_cost` is made `from: cost`, and the file of model `credit-risk` has no `cost`" in issue for issue in found), found
    assert any("budget.cost_per_day: the file of model `credit-risk` has no `cost`" in issue for issue in found), found


@pytest.mark.parametrize("guardrail", ["repaid: {max_harm: 1pp}", "accuracy: {max_harm: 1pp}", "diverted: {max_harm: 1pp}"])
def test_what_cannot_be_seen_in_pairs_is_no_guardrail_of_a_shadow(tmp_path, guardrail):
    found = with_shadow(tmp_path, "{currency: CHF, per_call: 1}", SHADOW.replace("call_cost: {max_harm: 10%}", guardrail))
    assert any("cannot be seen in mirrored calls" in str(issue) for issue in found.issues), found.issues


@given(st.integers(0, 10**15))
def test_any_price_of_nine_decimals_is_kept_exactly_as_a_number_and_as_text(nano: int):
    number = Decimal(nano).scaleb(-9)
    assert parse_price_nano(number) == parse_price_nano(f"{number:f}") == nano
