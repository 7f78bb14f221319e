"""What happens in the demo, act by act. Every number printed is what the gateway or its log reported."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from gateway.demo.stage import MODEL, Stage, StageError, examples

RATE_PER_S = 400.0
BATCH = 200
MOST_CALLS = 12_000
"""Where an act gives up waiting for evidence and says so."""

AB = """\
experiment: ab-test
strategy: ab
model: tumour-triage
owner: demo
hypothesis: version 4 is right more often than version 3
arms: {control: {version: "3"}, treatment: {version: "4"}}
split: {control: 50%, treatment: 50%}
goal: {metric: accuracy, margin: 2pp}
guardrails: {errors: {max_harm: 2pp, on_harm: rollback}}
deadline: {after: 1d, then: stop}
"""

CANARY = """\
experiment: {name}
strategy: canary
model: tumour-triage
owner: demo
hypothesis: version {challenger} is right at least as often as version {champion}
arms: {{champion: {{version: "{champion}"}}, challenger: {{version: "{challenger}"}}}}
steps:
  - {{share: 5%, hold: 2s, min_units: 20}}
  - {{share: 25%, hold: 2s, min_units: 100}}
  - {{share: 50%, hold: 2s, min_units: 200}}
guardrails: {{errors: {{max_harm: 2pp, on_harm: rollback}}}}
goal: {{metric: accuracy, margin: 2pp}}
deadline: {{after: 1d, then: rollback}}
"""


ROUNDING = """\
# METADATA
# title: Scores leave with one decimal
package policy.rounding

obligations contains {"type": "round", "path": "/outputs/[name=score]/data", "digits": 1} if input.model.risk != "low"
"""


class Story:
    """Tells the demo on one stage."""

    def __init__(self, stage: Stage, console: Console) -> None:
        """Tell it to `console`."""
        self._stage = stage
        self._console = console
        self._traffic = examples("traffic")
        self._cases: Iterator[Any] = self._traffic.cases(seed=7)
        self._act = 0

    def tell(self) -> None:
        """Run all acts."""
        self._models()
        self._deployment()
        self._ab()
        self._canary("canary-4", champion="3", challenger="4")
        self._swap()
        self._canary("canary-back", champion="4", challenger="3")
        self._refusals()
        self._rule()
        self._evidence()

    def go_on(self, rate_per_s: float) -> None:
        """Call the model with held-out cases, and tell their labels, until interrupted."""
        while True:
            self._calls(round(rate_per_s), quiet=True, rate_per_s=rate_per_s)

    # --- acts -----------------------------------------------------------------------------------------------------------------------------

    def _models(self) -> None:
        self._heading("Two versions of a model, trained now on 569 real biopsies")
        self._say("Wisconsin breast cancer data; rows are features of cells, the label is benign or malignant.", quiet=True)
        self._stage.start_models("3", "4")
        for server in self._stage.models.values():
            self._say(f"version {server.version}: {server.accuracy:.1%} right on {server.held_out_rows} held-out biopsies, served at {server.url}")
        self._say(f"Traffic: {self._traffic.RESAMPLING_NOTE}.", quiet=True)

    def _deployment(self) -> None:
        self._heading("A deployment: configuration, people, keys, approvals, a witness")
        stage = self._stage
        stage.build()
        stage.approve("3", "4")
        self._say("alice approved versions 3 and 4; nobody approved version 5")
        self._say(_shortened(stage.check()), quiet=True)
        stage.start_gateway()
        self._say(f"front door {stage.front}   console {stage.admin}")
        self._say("keys to verify the log with, of the log and of the witness that cosigns its heads:")
        self._copyable(stage.vkey)
        self._copyable(stage.witness_vkey)

    def _ab(self) -> None:
        self._heading("An A/B test: half of the units to each version; labels arrive later")
        self._stage.write_experiment("ab-test", AB)
        self._stage.wait_for(lambda: self._phase("ab-test") == "running", "the A/B test to start")
        tally = self._calls(600)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("arm", "calls", "right"):
            table.add_column(column, justify="left" if column == "arm" else "right")
        if not any(answer.status == 200 for answer in tally.answers):
            raise StageError(f"no call was served; statuses: {dict(Counter(answer.status for answer in tally.answers))}")
        calls = Counter(answer.arm for answer in tally.answers if answer.status == 200)
        right = Counter(answer.arm for answer in tally.answers if answer.prediction == answer.case.label)
        for arm, count in sorted(calls.items()):
            table.add_row(arm, str(count), f"{right[arm] / count:.1%}")
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False))
        self._say(f"The gateway's verdict so far: {self._settled_verdict('ab-test')}")

    def _canary(self, name: str, *, champion: str, challenger: str) -> None:
        self._heading(f"A canary: version {challenger} earns traffic against version {champion}, step by step")
        stage = self._stage
        stage.write_experiment(name, CANARY.format(name=name, champion=champion, challenger=challenger))
        stage.wait_for(lambda: self._phase(name) == "running", "the canary to start")
        sent, told = 0, 0
        with Live(console=self._console, refresh_per_second=4, transient=True) as live:
            while sent < MOST_CALLS:
                sent += len(self._calls(BATCH, quiet=True).answers)
                found = stage.experiment(name) or {}
                told = self._tell_steps(found, told)
                reason = next(iter(found["reasons"]), "no evidence yet")
                live.update(self._indented(f"{sent} calls, {found['share']} of units compared: {reason}", "dim"))
                if found["phase"] != "running":
                    break
        final = stage.experiment(name) or {}
        self._tell_steps(final, told)
        if final["phase"] == "running":
            self._say(f"Undecided after {sent} calls: {final['verdict']}")
        else:
            self._say(f"{final['verdict']} ({sent} calls)", strong=True)
            for reason in final["reasons"][:2]:
                self._say(reason, quiet=True)

    def _swap(self) -> None:
        self._heading("The versions swapped: 4 is the default, the weaker 3 its challenger")
        self._stage.write_model(default="4")
        self._stage.end_experiments()
        self._say(_shortened(self._stage.check()), quiet=True)

    def _refusals(self) -> None:
        self._heading("Two calls that may not go")
        case = next(self._cases)
        body = self._traffic.infer_body(case)
        unapproved = self._post(f"/v2/models/{MODEL}/versions/5/infer", body, self._stage.keys["tester"])
        self._say(f"version 5, which nobody approved: {unapproved.status_code} {unapproved.json()['error']}")
        self._say(f"hint: {unapproved.json()['hint']}", quiet=True)
        many = {**body, "inputs": [{**tensor, "shape": [50], "data": tensor["data"] * 50} for tensor in body["inputs"]]}
        too_many = self._post(f"/v2/models/{MODEL}/infer", many, self._stage.keys["product"])
        self._say(f"50 rows in one call, where the model's file allows 10: {too_many.status_code} {too_many.json()['error']}")
        self._decision = too_many.headers["assay-decision"]

    def _rule(self) -> None:
        self._heading("A rule, saved while the gateway runs: scores leave with one decimal")
        for line in ROUNDING.splitlines()[2:]:
            self._say(line, quiet=True)
        body = next(body for body in map(self._traffic.infer_body, self._cases) if not _is_round(self._score(body)))
        before = self._score(body)
        self._stage.write_policy("rounding", ROUNDING)
        self._stage.wait_for(lambda: _is_round(self._score(body)), "the rule to be in force")
        self._say(f"the same call: score {before} before, {self._score(body)} now; the record commits to both")

    def _score(self, body: dict[str, Any]) -> float:
        reply = self._post(f"/v2/models/{MODEL}/infer", body, self._stage.keys["product"])
        return float(next(output["data"][0] for output in reply.json()["outputs"] if output["name"] == "score"))

    def _evidence(self) -> None:
        self._heading("The log: every call above is a record in it, signed and witnessed")
        stage = self._stage
        before = (stage.status()["log"] or {"size": 0})["size"]
        stage.wait_for(lambda: _is_witnessed(stage.status()["log"], before), "a new signed head that the witness cosigned")
        keys = ("--vkey", str(stage.directory / "log.vkey"), "--witness", str(stage.directory / "witness.vkey"))
        told = json.loads(stage.assay("audit", "verify", str(stage.directory / "data"), *keys, "--json"))
        held = told["exit_code"] == 0
        self._say(f"assay audit verify: {'every check holds' if held else 'not everything holds'} (exit {told['exit_code']})", strong=held)
        for name, grade, summary in _verdict_lines(told):
            style = "green" if grade == "ok" else "yellow" if grade == "unproven" else "bold red"
            self._console.print(Text.assemble(f"    {name:14}", (f"{grade:10}", style), summary), soft_wrap=True)
        if held:
            self._say("Green because a witness keeps the last head it saw: this is neither an old nor another history.", quiet=True)
            self._say("This witness runs here, to show how; let somebody else run yours.", quiet=True)

    # --- what acts are made of ------------------------------------------------------------------------------------------------------------

    def _calls(self, count: int, *, quiet: bool = False, rate_per_s: float = RATE_PER_S) -> Any:
        """Send calls, then their labels."""
        stage = self._stage
        plan = self._traffic.Plan(stage.front, stage.keys["product"], rate_per_s, 16, MODEL)
        batch = list(itertools.islice(self._cases, count))
        columns = (TextColumn("  [dim]{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
        with Progress(*columns, console=self._console, transient=True, disable=quiet) as progress:
            task = progress.add_task("calls", total=count)

            async def run() -> Any:
                async with httpx.AsyncClient(timeout=10) as client:
                    tally = await self._traffic.send(client, plan, batch, lambda _answer: progress.advance(task))
                    await self._traffic.post_labels(client, plan, tally.answers)
                    return tally

            return asyncio.run(run())

    def _post(self, path: str, body: dict[str, Any], key: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}", "assay-unit": "someone"}
        return httpx.post(f"{self._stage.front}{path}", json=body, headers=headers, timeout=10)

    def _phase(self, name: str) -> str:
        found = self._stage.experiment(name)
        return "" if found is None else str(found["phase"])

    def _settled_verdict(self, name: str) -> str:
        """Return the verdict once the labels that were sent have been read from the log."""
        ends = time.monotonic() + 5
        last = ""
        while time.monotonic() < ends:
            time.sleep(0.6)
            found = self._stage.experiment(name) or {"reasons": []}
            now = next((reason for reason in found["reasons"] if reason.startswith("accuracy")), "")
            if now and now == last:
                return now
            last = now
        return last or "not enough evidence"

    def _tell_steps(self, found: Any, told: int) -> int:
        history = list(reversed(found.get("history", [])))
        for row in history[told:]:
            self._say(f"record {row['index']}: {row['action']} - {row['reason']}")
        return len(history)

    def _heading(self, text: str) -> None:
        self._act += 1
        self._console.print()
        self._console.print(f"[bold]{self._act}. {text}[/]")

    def _say(self, text: str, *, quiet: bool = False, strong: bool = False) -> None:
        """Print a sentence, wrapped under its own beginning."""
        self._console.print(self._indented(text, "dim" if quiet else "bold green" if strong else ""), soft_wrap=True)

    def _indented(self, text: str, style: str) -> Text:
        wrapped = textwrap.fill(
            text, self._console.width, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        return Text(wrapped, style=style)

    def _copyable(self, text: str) -> None:
        """Print something that is copied from the terminal: never wrapped."""
        self._console.print(Text(f"    {text}"), soft_wrap=True)


def _is_round(score: float) -> bool:
    return round(score, 1) == score


def _shortened(text: str) -> str:
    """Return a text with its digests cut to what tells them apart."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", text)


def _is_witnessed(head: Any, older: int) -> bool:
    return head is not None and head["size"] > older and bool(head["cosigned"])


def _verdict_lines(told: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, grade and summary of each check."""
    return [(check["name"], check["grade"], check["summary"]) for check in told["checks"]]
