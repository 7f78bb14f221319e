"""Makes `tea_tasting.json`: what tea-tasting says of a small data set, for the delta method and CUPED.

python -m venv oracle
oracle/bin/pip install "tea-tasting==1.14.0"
oracle/bin/python tests/experiments/vectors/make_tea_tasting.py
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import tea_tasting as tt

rng = np.random.default_rng(5)
units = 300
variant = np.arange(units) % 2
requests = 1 + rng.poisson(4, units)
before = rng.normal(10, 2, units).round(6)
failures = rng.binomial(requests, 0.1 + 0.05 * variant)
spent = (3 + 0.8 * before + 0.5 * variant + rng.normal(0, 1, units)).round(6)
data = pa.table({"user": np.arange(units), "variant": variant, "requests": requests, "failures": failures, "before": before, "spent": spent})
experiment = tt.Experiment(
    ratio=tt.RatioOfMeans("failures", "requests", use_t=False, equal_var=False),
    welch=tt.Mean("spent", use_t=True, equal_var=False),
    cuped=tt.Mean("spent", "before", use_t=False, equal_var=False),
)
found = experiment.analyze(data)
names = ("effect_size", "effect_size_ci_lower", "effect_size_ci_upper", "pvalue")
expected = {metric: {name: float(getattr(found[metric], name)) for name in names} for metric in ("ratio", "welch", "cuped")}
rows = {name: data[name].to_pylist() for name in ("variant", "requests", "failures", "before", "spent")}
Path(__file__).with_name("tea_tasting.json").write_text(
    json.dumps({"made_by": f"tea-tasting {tt.__version__}", "rows": rows, "expected": expected}) + "\n"
)
