"""A person as champion of a shadow: what counts of what they decided, when it counts, and what that proves."""

from itertools import permutations

import pytest

from experiments.changes import change_kind
from experiments.checks import ModelFacts, check
from experiments.compiler import compile_experiment
from experiments.config import parse_experiment
from experiments.pairs import PairFold, judge_pairs
from experiments.people import PersonFold, fold_of

FILE = {
    "experiment": "officers",
    "strategy": "shadow",
    "model": "credit",
    "arms": {"champion": {"person": "loan officers"}, "shadow": {"version": "2"}},
    "decided_within": "1h",
    "share": "100%",
    "compare": {"decision": {"kind": "label", "at": "/label", "max_disagreement": "10%"}},
    "guardrails": {"errors": {"max_harm": "5pp"}},
    "deadline": {"after": "7d", "then": "stop"},
}
MODELS = {"credit": ModelFacts(frozenset({"1", "2"}), "1")}
LATER = 120


def document(**more: object):
    return compile_experiment(parse_experiment({**FILE, **more}))


def at(minute):
    return f"2026-11-21T{minute // 60:02d}:{minute % 60:02d}:00.000000Z"


def answer(number, said="1", *, minute=0, status=200, tenant="acme", **more: object):
    outcome = {"status": status, "latency_us": 5}
    answers = {} if said is None else {"decision": said}
    champion = {"status": 200, "latency_us": 4}
    record = {"type": "shadow", "experiment": "officers", "epoch": 1, "parents": [f"d{number}"], "time": at(minute), "tenant": tenant}
    return {**record, "champion": champion, "outcome": outcome, "compared": {}, "answers": answers, **more}


def decided(number, said="1", *, minute=10, name=None, tenant="acme", source="k1", **more: object):
    record = {"type": "human_decision", "id": name or f"h{number:06d}", "decision": f"d{number}", "row": 0, "human_decision": said}
    return {**record, "source": source, "tenant": tenant, "time": at(minute), **more}


def folded(*records: dict[str, object], document_=None):
    fold = PersonFold(document_ or document(), 1)
    for record in records:
        fold.add(record)
    return fold.evidence()


def clock(minute=LATER):
    return answer(999_999, minute=minute)


def counts(*records: dict[str, object]):
    found = folded(*records, clock())
    return found.pairs, found.limits["decision"].broken


def test_the_answer_is_compared_with_what_a_person_decided_whatever_the_order_of_records():
    records = [answer(1), decided(1), answer(2, "0"), decided(2), clock()]
    for order in permutations(records):
        found = folded(*order, *records[:2])
        assert (found.pairs, found.limits["decision"].broken) == (2, 1)


def test_a_call_counts_when_its_time_is_over_and_not_before_however_soon_it_was_decided():
    records = [answer(1), decided(1, minute=1)]
    assert folded(*records, clock(59)).pairs == 0
    assert folded(*records, clock(60)).pairs == 1


def test_what_nobody_decided_in_time_is_left_out_and_told():
    found = folded(answer(1), decided(1, minute=61), answer(2), answer(3), decided(3), clock())
    assert (found.pairs, found.undecided) == (1, 2)
    assert "2 of 3 mirrored calls were not decided in time" in " ".join(judge_pairs(document(), found).reasons)


@pytest.mark.parametrize(("undecided", "outcome"), [(20, "fine"), (40, "hold")])
def test_whoever_decides_what_is_easy_alone_proves_nothing(undecided, outcome):
    calls = [answer(number) for number in range(300)]
    decisions = [decided(number) for number in range(300 - undecided)]
    verdict = judge_pairs(document(), folded(*calls, *decisions, clock()))
    assert verdict.outcome == outcome
    assert ("nothing is proven" in verdict.reasons[0]) == (outcome == "hold")


def test_the_first_decision_counts_and_who_gave_it_may_correct_it():
    assert counts(answer(1), decided(1, "1", name="a"), decided(1, "0", name="b")) == (1, 0)
    assert counts(answer(1), decided(1, "1", name="a"), decided(1, "0", name="b", corrects=True)) == (1, 1)
    assert counts(answer(1), decided(1, "1", name="a"), decided(1, "0", name="b", corrects=True, source="k2")) == (1, 0)
    assert counts(answer(1), decided(1, "1", name="a"), decided(1, "0", name="b", corrects=True, source="k2", may_correct=True)) == (1, 1)


def test_nobody_decides_for_another_tenants_call_or_for_a_model_their_key_does_not_name_or_another_row():
    assert counts(answer(1), decided(1, tenant="globex")) == (0, 0)
    assert counts(answer(1), decided(1, "0", tenant="globex", name="a"), decided(1, "1", name="b")) == (1, 0)
    assert counts(answer(1), decided(1, models=["other"])) == (0, 0)
    assert counts(answer(1), decided(1, row=1)) == (0, 0)


def test_a_version_that_failed_or_said_nothing_comparable_agrees_in_nothing():
    assert counts(answer(1, status=504), decided(1)) == (1, 1)
    assert counts(answer(1, None), decided(1)) == (1, 1)
    assert folded(answer(1, status=504), clock()).limits["errors"].broken == 1, "errors count without anyone deciding"


def test_decisions_on_calls_that_were_not_mirrored_are_forgotten_within_bounds():
    fold = PersonFold(document(), 1, max_orphans=3)
    for number in range(50):
        fold.add(decided(number))
    fold.add(answer(49))
    fold.add(answer(0))
    fold.add(clock())
    assert fold.evidence().pairs == 1


@pytest.mark.parametrize(("wrong_every", "outcome"), [(1000, "fine"), (3, "harm"), (10, "hold")])
def test_the_verdict_is_the_sequential_one_of_every_shadow(wrong_every, outcome):
    records = [one for n in range(800) for one in (answer(n, "0" if n % wrong_every == 0 else "1"), decided(n))]
    verdict = judge_pairs(document(), folded(*records, clock()))
    assert verdict.outcome == outcome, verdict.reasons


def test_no_decision_at_all_is_a_hold():
    assert judge_pairs(document(), folded(*(answer(n) for n in range(500)), clock())).outcome == "hold"


def test_a_person_gets_a_fold_of_their_own_and_a_version_does_not():
    assert type(fold_of(document(), 1)) is PersonFold
    other = {**FILE, "arms": {"champion": {"version": "1"}, "shadow": {"version": "2"}}, "decided_within": None}
    compiled = compile_experiment(parse_experiment({key: value for key, value in other.items() if value is not None}))
    assert type(fold_of(compiled, 1)) is PairFold
    assert change_kind(compiled, document()) == "epoch"
    with pytest.raises(ValueError, match="is no person"):
        PersonFold(compiled, 1)


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"decided_within": None}, ("arms", "champion"), "decided_within: 3d"),
        ({"arms": {"champion": {"version": "1"}, "shadow": {"version": "2"}}}, ("decided_within",), "leave it out"),
        ({"decided_within": "8d"}, ("deadline", "after"), "before the first call may have been decided"),
        ({"compare": {"a": {"kind": "json", "max_disagreement": "1%"}}}, ("compare",), "kind: label"),
        ({"guardrails": {"p95_ms": {"max_harm": "20%"}}}, ("guardrails", "p95_ms"), "cannot be compared with a person"),
        ({"arms": {"champion": {"person": "x"}, "shadow": {"version": "9"}}}, ("arms", "shadow", "version"), "has no version `9`"),
    ],
)
def test_what_makes_no_sense_of_a_person_is_refused_at_its_key(changes, path, said):
    file = parse_experiment({key: value for key, value in {**FILE, **changes}.items() if value is not None})
    (fault,) = check(file, models=MODELS)
    assert fault.path == path
    assert said in fault.message


@pytest.mark.parametrize(
    "arms",
    [
        {"champion": {}, "shadow": {"version": "2"}},
        {"champion": {"version": "1", "person": "x"}, "shadow": {"version": "2"}},
        {"champion": {"version": "1"}, "shadow": {"person": "x"}},
    ],
)
def test_an_arm_is_a_version_or_as_champion_a_person(arms):
    with pytest.raises(ValueError, match="person"):
        parse_experiment({**FILE, "arms": arms})


def test_the_default_version_itself_may_be_compared_with_people():
    file = parse_experiment({**FILE, "arms": {"champion": {"person": "officers"}, "shadow": {"version": "1"}}})
    assert check(file, models=MODELS) == []
