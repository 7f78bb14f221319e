"""Documents and live states that tests of experiments draw on."""

from fractions import Fraction

from hypothesis import strategies as st

from experiments.document import ExperimentDocument, HoldoutDocument, LayerDocument, LiveExperiment, StepDocument
from experiments.shares import WHOLE, integer_shares

HALF = WHOLE // 2

pseudonyms = st.text("0123456789abcdef", min_size=32, max_size=32)
arm_names = st.text("abcdefgh", min_size=1, max_size=4)
positive_weights = st.dictionaries(arm_names, st.integers(1, 1000), min_size=2, max_size=5)


def document_of(weights, *, name="exp", salt="salt", sticky="unit", exposure=WHOLE, layer=None, holdout=None):
    arms = sorted(weights)
    shares = integer_shares({arm: Fraction(weight) for arm, weight in weights.items()})
    step = StepDocument(exposure=exposure, shares=shares, hold_us=0, min_units=0)
    return ExperimentDocument(
        experiment=name,
        strategy="ab",
        model="credit-risk",
        owner="risk",
        hypothesis="B is better",
        arms={arm: str(number) for number, arm in enumerate(arms)},
        control=arms[0],
        sticky=sticky,
        salt=salt,
        seed="1",
        mode="native",
        steps=(step,),
        guardrails=(),
        goal=None,
        alpha_ppm=50_000,
        alpha_harm_ppm=25_000,
        breaker=None,
        deadline_us=None,
        deadline_then="stop",
        layer=layer,
        holdout=holdout,
    )


def live_of(document, *, phase="running", exposure=None, shares=None, epoch=1, holdout_released=False):
    step = document.steps[0]
    return LiveExperiment(
        experiment=document.experiment,
        epoch=epoch,
        phase=phase,
        step=0,
        exposure=step.exposure if exposure is None else exposure,
        shares=step.shares if shares is None else shares,
        holdout_released=holdout_released,
    )


def layer_of(first, last, *, slots=1000):
    return LayerDocument(name="pricing", salt="pricing", slots=slots, first=first, last=last)


def holdout_of(share):
    return HoldoutDocument(name="q4", salt="q4", share=share, version="0", until="2027-01-01", owner="risk")
