"""Which arms of an experiment may not have the traffic they would get: asked before anyone is drawn, by `assay check` and the plans.

Example:
    unapproved_arms(layout, compiled, document)
    # {"green": "version 4 (arm green) may not have 100 % of the traffic: approval.missing"}
"""

from __future__ import annotations

import time

import msgspec

from experiments.document import ExperimentDocument
from experiments.shares import WHOLE
from gateway.config.compile import Compiled
from gateway.config.layout import Layout
from gateway.documents import RouteDocument


def unapproved_defaults(layout: Layout, compiled: Compiled) -> list[str]:
    """Return a line for each model whose default version may not serve everyone: its calls are refused until people have approved it."""
    from gateway.cli.model import candidate_of, read_inbox  # noqa: PLC0415 - cryptography, only here
    from gateway.cli.trust import read_root  # noqa: PLC0415
    from policies.in_force import judge  # noqa: PLC0415

    if not layout.trust_root.exists() or compiled.manifest is None or compiled.gateway is None:
        return []
    root = read_root(layout)
    approvals, revocations, _ = read_inbox(layout, root)
    missing = []
    for name, digest in sorted(compiled.manifest.models.items()):
        route = msgspec.json.decode(compiled.objects[digest], type=RouteDocument)
        candidate = candidate_of(route, route.versions[route.default_version])
        found = judge(approvals, revocations, candidate, root, compiled.gateway.environment, time.time_ns() // 1000, WHOLE)
        if found.reason is not None:
            asked = f"`assay model approve {name} {route.default_version}`"
            missing.append(
                f"models/{name}.yaml: calls are refused: version {route.default_version}, the default, is not approved: {found.reason}; {asked}"
            )
    return missing


def unapproved_arms(layout: Layout, compiled: Compiled, document: ExperimentDocument) -> dict[str, str]:
    """Return arm -> why its version may not have its largest share; nothing where there is no trust root yet."""
    from gateway.cli.model import candidate_of, read_inbox  # noqa: PLC0415 - cryptography, only here
    from gateway.cli.trust import read_root  # noqa: PLC0415
    from policies.in_force import judge  # noqa: PLC0415

    if not layout.trust_root.exists() or compiled.manifest is None or compiled.gateway is None:
        return {}
    root = read_root(layout)
    approvals, revocations, _ = read_inbox(layout, root)
    route = msgspec.json.decode(compiled.objects[compiled.manifest.models[document.model]], type=RouteDocument)
    missing = {}
    for arm, version in sorted(document.arms.items()):
        if not version:
            continue  # a person needs no approval
        share = largest_share(document, arm)
        candidate = candidate_of(route, route.versions[version])
        found = judge(approvals, revocations, candidate, root, compiled.gateway.environment, time.time_ns() // 1000, max(1, share))
        if found.reason is not None:
            missing[arm] = f"version {version} (arm {arm}) may not have {share * 100 / WHOLE:g} % of the traffic: {found.reason}"
    return missing


def largest_share(document: ExperimentDocument, arm: str) -> int:
    """Return the largest part of the traffic an arm may get, out of 2**32: everyone after a switch, and where somebody else hands the arms out."""
    if arm == document.control or document.strategy == "blue_green" or document.external is not None:
        return WHOLE
    return max(step.exposure * step.shares.get(arm, 0) // WHOLE for step in document.steps)
