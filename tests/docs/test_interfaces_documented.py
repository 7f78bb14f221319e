"""Routes, metrics and record types stand on their pages: all of them, and nothing that is not there."""

import ast
import re

import pytest
from pages import ROOT, blocks, calls, first_column, page, texts

from gateway.admin.metrics import Collector
from gateway.admin.traffic import Traffic
from gateway.facts import Facts, ReplyFacts, input_document, reply_document
from policies.bundle import PolicyBundle
from policies.obligations import MOST_OBLIGATIONS, MOST_PATH
from policies.verdict import MOST_ID, MOST_MESSAGE, MOST_REASONS, OBLIGATIONS

HTTP = page("http.md")
FRONT, ADMIN = HTTP.split("\n## Admin port\n")


def admin_routes():
    """First arguments of Route(...) and Mount(...) in the admin port."""
    return {
        re.sub(r":(path|int)}", "}", path)
        for name, call in calls("gateway/admin")
        if name in ("Route", "Mount") and call.args
        for path in texts(call.args[0])
    }


def front_paths():
    """Literal paths in the source of the front door: its table of plain paths, and the beginnings it tells models by."""
    found = set()
    for name in ("lane.py", "service.py", "snapshot.py"):
        for node in ast.walk(ast.parse((ROOT / "gateway" / name).read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"/[a-z0-9/]+", node.value):
                found.add(node.value)
    return found


def test_every_route_of_the_admin_port_is_documented_and_nothing_else_is():
    documented = {name for name in first_column(ADMIN) if name.startswith("/")}
    assert documented == admin_routes()
    assert len(documented) > 8


def test_every_path_of_the_front_door_is_documented():
    documented = {name for name in first_column(FRONT) if name.startswith("/")}
    for path in front_paths():
        assert any(name == path or name.startswith(path.rstrip("/") + "/") or path.endswith(name.rsplit("}", 1)[-1]) for name in documented), path
    plain = {name for name in documented if "{" not in name}
    assert plain <= front_paths()
    assert {"/feedback", "/readyz", "/v2"} <= plain


@pytest.mark.parametrize("header", ["assay-decision", "assay-arm", "retry-after", "www-authenticate", "assay-unit", "authorization", "traceparent"])
def test_headers_the_gateway_reads_and_sets_are_documented(header):
    source = "".join((ROOT / "gateway" / name).read_text() for name in ("lane.py", "intake.py", "answers.py", "service.py"))
    assert f'b"{header}"' in source
    assert f"`{header}" in FRONT.lower()


class Nothing:
    """A controller that knows nothing yet."""

    traffic = Traffic()

    def head(self):
        return None

    def config_age_s(self):
        return 0.0

    def config_issues(self):
        return 0

    def witness_standings(self):
        return ()

    def leader(self):
        return None


def test_every_metric_is_documented_with_its_type_and_labels_and_nothing_else_is():
    documented = {}
    for name, kind, labels in re.findall(r"^\| `(assay_\w+)` \| (\w+) \| ([^|]+) \|", page("metrics.md"), re.MULTILINE):
        documented[name] = (kind, tuple(re.findall(r"`(\w+)`", labels)))
    made = {}
    for family in Collector(Nothing()).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        made[name] = (family.type, tuple(family._labelnames))
    assert documented == made


def test_alerts_name_metrics_that_exist():
    documented = set(first_column(page("metrics.md").split("## What to alert on")[0]))
    used = set(re.findall(r"assay_\w+", page("metrics.md").split("## What to alert on")[1]))
    assert used
    assert used <= documented


def written_types():
    """Record types that the code writes: what is given to the functions that begin a record."""
    place = {"statement": 0, "record": 0, "_decided": 0, "_write": 0, "Event": 0, "Ending": 0, "head": 1, "record_read": 1, "_due": 0}
    found = set()
    for name, call in calls("gateway", "audit"):
        if name in place and len(call.args) > place[name]:
            found |= {text for text in texts(call.args[place[name]]) if re.fullmatch(r"[a-z_]+(\.[a-z]+)?", text)}
        if name == "record_all" and call.args:
            pairs = [node for node in ast.walk(call.args[0]) if isinstance(node, ast.Tuple)]
            found |= {text for pair in pairs for text in texts(pair.elts[0])}
    for path in [*(ROOT / "gateway" / "control").glob("*.py"), *(ROOT / "audit").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "kind" for target in node.targets):
                found |= {text for text in texts(node.value) if "." in text}
    return found


def documented_types():
    text = page("records.md")
    rows = [name for name in first_column(text.split("## Others")[1]) if re.fullmatch(r"[a-z_]+\.[a-z]+", name)]
    heads = re.findall(r"^## .*: (.*)$", text, re.MULTILINE)
    return {*rows, *(name for head in heads for name in re.findall(r"`(\w+)`", head))}


def test_every_type_of_record_that_is_written_is_documented_and_nothing_else_is():
    assert documented_types() == written_types()
    assert {"call", "decision", "outcome", "label", "reward", "rollout.step", "log.lost", "config.change"} <= written_types()


def fixed_part():
    """The dict literal `fixed` in the source: what a version brings into the policies' input; lists and texts become leaves."""

    def shape(node):
        if isinstance(node, ast.Dict):
            return {key.value: shape(value) for key, value in zip(node.keys, node.values, strict=True)}
        return None

    for node in ast.walk(ast.parse((ROOT / "gateway" / "standing.py").read_text())):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "fixed":
            return shape(node.value)
    raise AssertionError("gateway/standing.py no longer says `fixed = {...}`")


def leaves(document, prefix):
    for key, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}"


def test_every_path_of_the_policies_input_is_documented_and_nothing_else_is():
    facts = Facts("t", "POST", "/p", "", 1, 1, ("infer",), exhausted=False, experiment="e", arm="a")
    documented = {name for name in first_column(page("policies.md")) if name.startswith("input.")}
    reply = reply_document(facts, fixed_part(), ReplyFacts(200, "", 1))
    reply["response"]["body"] = None
    assert documented == set(leaves(reply, "input"))


def test_the_policy_on_the_page_is_enforced_beside_the_shipped_ones():
    (text,) = blocks(page("policies.md"), "rego")
    bundle = PolicyBundle.load({"policies/office.rego": text}, {})
    facts = Facts("t", "POST", "/p", "", 1, 1, ("infer",), exhausted=False, experiment="", arm="")
    fixed = {"env": "development", "model": {"risk": "high", "stage": "candidate"}, "approvals": [], "params": {"max_rows": 10}}
    verdict = bundle.evaluate(input_document(facts, fixed), 0)
    assert {"OFFICE-2", "APP-001"} <= {reason["id"] for reason in verdict.reasons}


def test_bounds_on_reasons_are_the_documented_ones():
    text = page("policies.md")
    assert f"At most {MOST_ID} and {MOST_MESSAGE} characters; at most {MOST_REASONS} reasons" in text
    assert f"At most {MOST_OBLIGATIONS} obligations, {MOST_PATH} characters a path" in text
    assert set(OBLIGATIONS) == {name for name in first_column(text.split("## Obligations")[1].split("\n## ")[0]) if name != "type"}
