"""What `assay experiment new` writes: a good start of each strategy, as a draft, with comments that say what to change.

Example:
    text = starter("canary", "credit-v4", "credit-risk", "3", "4", "lending-pm")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_HEAD: Final = """\
# {title}
experiment: {name}
strategy: {strategy}
model: {model}
owner: {owner}
hypothesis: version {challenger} is at least as good as version {champion}   # say what you expect, before you look: it is hashed and quoted
start: manual                    # a draft until `assay experiment start {name}`

arms:
"""
_CANARY: Final = """\
  champion: {{version: "{champion}"}}
  challenger: {{version: "{challenger}"}}

steps:                           # rising shares of the challenger; hold: least time; min_units: units each arm must have served
  - {{share: 1%, hold: 30m, min_units: 200}}
  - {{share: 5%, hold: 2h, min_units: 500}}
  - {{share: 25%, hold: 1d, min_units: 1000}}
  # approve: PERSON on a step makes it wait for their signed yes

guardrails:                      # how much worse each may get, and what proven harm does
  errors: {{max_harm: 0.5pp, on_harm: rollback}}
  p95_ms: {{max_harm: 20%, on_harm: hold}}
breaker: {{errors: "> 5% over 2m", action: rollback}}
deadline: {{after: 7d, then: rollback}}   # what happens if nothing was decided by then
"""
_AB: Final = """\
  control: {{version: "{champion}"}}
  treatment: {{version: "{challenger}"}}
control: control
split: {{control: 50%, treatment: 50%}}
exposure: 100%                   # part of the units that takes part; raising it only adds units

# external: {{system: NAME}}        # a feature-flag product chooses the arm instead; callers send `Assay-Variant: {name}=ARM`
# bucketing: {{mode: growthbook-v2, seed: S, order: [control, treatment]}}   # we draw, as that product would

goal: {{metric: errors, margin: 0.5pp}}   # the one number this is about; labels and rewards can be goals too
guardrails:
  p95_ms: {{max_harm: 20%, on_harm: hold}}
deadline: {{after: 21d, then: stop}}
"""
_SHADOW: Final = """\
  champion: {{version: "{champion}"}}
  shadow: {{version: "{challenger}"}}
  # champion: {{person: loan officers}}, with `decided_within: 3d`, compares with what people decide (`human_decision` at /feedback)
share: 10%                       # of the champion's calls; each is drawn by itself
timeout: 2s
budget: {{per_second: 20}}         # what comes above is left out and counted

compare:                         # what of the two replies must agree, and in how many calls it may not
  decision: {{kind: label, at: /outputs/0/data/0, max_disagreement: 1%}}
guardrails:
  errors: {{max_harm: 0.5pp}}      # calls that only the shadow failed
  p95_ms: {{max_harm: 20%, on_harm: hold}}
min_pairs: 500
deadline: {{after: 7d, then: stop}}
# then: {{start: NAME}} starts a draft of the same model once everything is proven
"""
_BLUE_GREEN: Final = """\
  blue: {{version: "{champion}"}}      # the model's default version
  green: {{version: "{challenger}"}}

# verify: {{shadow: NAME}}         # a shadow of the same versions that has to be proven before the switch
keep_blue_warm: 24h              # this long after the switch the breaker sends everyone back by itself
breaker: {{errors: "> 5% over 2m", action: rollback}}
"""
_CHAMPION_CHALLENGER: Final = """\
  champion: {{version: "{champion}"}}
  challenger: {{version: "{challenger}"}}
share: 25%                       # the challenger's; as much of the champion's is compared with it
hold: 1d
min_units: 1000
# approve: PERSON                # makes promotion wait for their signed yes

goal: {{metric: errors, margin: 0.5pp}}   # the primary metric: it has to be proven better
guardrails:                      # each has to be proven not worse than its margin
  p95_ms: {{max_harm: 20%, on_harm: hold}}
# segments: {{country: [CH, DE]}}  # and none of these may be shown worse
deadline: {{after: 21d, then: rollback}}
"""
TEMPLATES: Final[Mapping[str, tuple[str, str]]] = {
    "ab": ("An A/B test: a fixed split, read whenever you like, ended by people.", _AB),
    "shadow": ("A shadow: a second version gets copies of calls, and its replies are compared with the champion's.", _SHADOW),
    "canary": ("A canary: the challenger earns traffic step by step, and is promoted only when it is proven not worse.", _CANARY),
    "blue_green": ("A blue-green switch: everyone at once with `assay experiment promote`, back with `rollback`.", _BLUE_GREEN),
    "champion_challenger": ("Champion and challenger: it takes over only when it is proven better.", _CHAMPION_CHALLENGER),
}
"""Strategy -> title and body."""


def starter(strategy: str, name: str, model: str, champion: str, challenger: str, owner: str = "", *, layer: str = "") -> str:
    """Return the text of a new experiment file; `layer` is a last line of it. Raises KeyError for a strategy without a template."""
    title, body = TEMPLATES[strategy]
    words = {"title": title, "name": name, "strategy": strategy, "model": model, "champion": champion, "challenger": challenger}
    return (_HEAD + body).format(**words, owner=owner or '""') + (layer and f"\n{layer}")
