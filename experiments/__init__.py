"""Experiments: which arm, with what probability, and what was learnt.

In the order data flows (imports go only downwards in this list):

- `config`      `experiments/<name>.yaml` as strict pydantic models; `quantities` reads `30m`, `1%`, `0.5pp`; `compiler` checks it against the rest of
                the configuration and makes the `document`, the compiled form that workers load.
- `assignment`  the hot path: unit -> arm, and the same from a record alone; on `bucketing` (hashes) and `shares` (integers out of 2**32).
- `evidence`    folds records of calls, labels and rewards into counts by unit; `breaker` watches a sliding window beside it.
- `judge`       counts -> harm, fine or hold, with reasons; on `stats`, a leaf module that other folders may use.
- `lifecycle`   the stages of an experiment's life as one table, and who may ask for which step; `preregistration` hashes the plan before the start.
- `targeting`   whom it is for; `ranges` other systems' buckets, `growthbook` their files; `values` numbers, `slices` segments one by one.
- `effects`     how large, with an interval; `outlook` what would change a verdict; `history` and `report` its story out of the log.
- `forecast`    what can be shown by when, `movement` who moves: before the start.
- `rollout`     the state machine: `verdict` and time -> advance, hold, roll back, promote.
- `analysis`    the same statistics on people's own rows, behind `assay experiment analyze`: `rows` reads chunks, `unit_table` adds them up by unit,
                `sufficient` keeps what a comparison needs, `comparison` compares by one of four methods.
- `planning`    how many units, behind `assay experiment power`; `simulation` runs a document on a stated truth with the real judge and steps.

Built strategies: `ab`, `canary`, `shadow`, `blue_green`, `champion_challenger`.

Nothing is imported here, because workers need `assignment` without NumPy and SciPy; import from the modules:

    from experiments.assignment import Assigner, Assignment, assign, recompute
    from experiments.bucketing import bucket
    from experiments.checks import check
    from experiments.compiler import compile_experiment
    from experiments.config import parse_experiment
    from experiments.document import ExperimentDocument, LiveExperiment
    from experiments.evidence import Fold
    from experiments.judge import judge
    from experiments.rollout import RolloutState, apply, live, step
"""
