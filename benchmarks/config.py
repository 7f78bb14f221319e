"""How long a large configuration takes to compile: from nothing, and after a change of one model.

    .venv/bin/python benchmarks/config.py [--models 1500] [--experiments 10000]

Writes the folder under a temporary directory, prints one JSON line. Bars (docs: `semantics.md` 1, issue "spine"): cold < 20 s, one change < 1 s.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

from gateway.config.compile import Compiler

GATEWAY = "environment: staging\naudit: {origin: bench.example/log, key: file:keys/log.key}\n"
MODEL = """model: m{n}
protocol: v2
owner: team-{t}
intended_use: benchmark
risk: medium
unit: {{json: /parameters/customer_id}}
versions:
  "1": {{upstreams: [http://10.0.0.1:{p}, http://10.0.0.2:{p}], digest: sha256:{d}, stage: production}}
  "2": {{upstreams: [http://10.0.0.1:{p}], digest: sha256:{d}, stage: candidate}}
  "3": {{upstreams: [http://10.0.0.3:{p}], digest: sha256:{d}, stage: candidate}}
default_version: "1"
schema: {{inputs: {{age: {{type: number, min: 18, max: 120}}, income: {{type: number, unit: EUR/year}}}}, unknown: reject}}
capture: {{prediction: /outputs/0/data/0}}
limits: {{max_rows: {rows}}}
"""
EXPERIMENT = """experiment: e{n}
strategy: ab
model: m{m}
owner: pm
hypothesis: version 2 is right more often
arms: {{control: {{version: "1"}}, treatment: {{version: "2"}}}}
split: {{control: 50%, treatment: 50%}}
goal: {{metric: accuracy, margin: 1pp}}
guardrails: {{errors: {{max_harm: 0.5pp, on_harm: rollback}}}}
deadline: {{after: 21d, then: stop}}
layer: {{name: all, slots: {first}-{last}}}
"""


def write(folder: Path, models: int, experiments: int) -> None:
    """Write the configuration."""
    (folder / "models").mkdir(parents=True)
    (folder / "experiments").mkdir()
    (folder / "gateway.yaml").write_text(GATEWAY)
    (folder / "experiments" / "_layers.yaml").write_text("layers: {all: {slots: 1000}}\n")
    for n in range(models):
        write_model(folder, n, rows=100)
    for n in range(experiments):
        slot = n // models
        text = EXPERIMENT.format(n=n, m=n % models, first=slot * 10, last=slot * 10 + 9)
        (folder / "experiments" / f"e{n}.yaml").write_text(text)


def write_model(folder: Path, n: int, *, rows: int) -> None:
    """Write one model."""
    text = MODEL.format(n=n, t=n % 40, p=9000 + n % 1000, d=f"{n:064x}", rows=rows)
    (folder / "models" / f"m{n}.yaml").write_text(text)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=1500)
    parser.add_argument("--experiments", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "config"
        write(folder, options.models, options.experiments)
        compiler = Compiler(folder)
        begin = time.perf_counter()
        cold = compiler.compile()
        cold_s = time.perf_counter() - begin
        if cold.manifest is None:
            raise SystemExit(f"does not compile: {cold.issues[:5]}")
        changes_s = []
        for n in range(5):
            write_model(folder, n, rows=101 + n)
            begin = time.perf_counter()
            after = compiler.compile()
            changes_s.append(time.perf_counter() - begin)
            if after.manifest is None:
                raise SystemExit(f"does not compile: {after.issues[:5]}")
        result = {
            "models": options.models,
            "experiments": options.experiments,
            "objects": len(cold.objects),
            "cold_s": round(cold_s, 2),
            "one_change_s": round(sorted(changes_s)[2], 3),
            "machine": f"{platform.machine()} Python {platform.python_version()}",
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
