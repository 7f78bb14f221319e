"""What all tests share: hypothesis profiles, and real components that may be absent.

A test marked `@pytest.mark.component("go")` needs that program. Where it is missing the test is skipped and says how to get it; with
`ASSAY_REQUIRE_COMPONENTS=1`, as in continuous integration, it fails instead.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

COMPONENTS = {
    "go": (("go",), "install Go >= 1.24 (Debian: `apt-get install golang`)"),
    "opa": (("opa",), "`go install github.com/open-policy-agent/opa@VERSION` with the version in tests/rego/OPA_VERSION, and put it on the PATH"),
    "openssl": (("openssl",), "`apt-get install openssl`"),
    "chromium": (("chromium",), "`apt-get install chromium`"),
    "nginx": (("nginx",), "`apt-get install nginx`"),
    "postgresql": (("initdb", "pg_ctl", "pg_basebackup"), "`apt-get install postgresql`"),
    "strace": (("strace",), "`apt-get install strace`"),
}

_DEBIAN_POSTGRES = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
"""Debian keeps the server's programs off the PATH."""

settings.register_profile("default", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


def missing(component: str) -> str | None:
    """Return how to get a component that is not here, or None."""
    programs, how = COMPONENTS[component]
    places = os.pathsep.join([os.environ.get("PATH", ""), str(Path.home() / "go" / "bin"), "/usr/sbin", *_DEBIAN_POSTGRES])
    return None if all(shutil.which(program, path=places) for program in programs) else how


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs an absent component, unless everything has to be there."""
    required = os.environ.get("ASSAY_REQUIRE_COMPONENTS") == "1"
    for item in items:
        for marker in item.iter_markers("component"):
            (component,) = marker.args
            how = missing(component)
            if how is not None and not required:
                item.add_marker(pytest.mark.skip(reason=f"needs `{component}`: {how}"))


@pytest.fixture(autouse=True)
def _components_are_here(request: pytest.FixtureRequest) -> None:
    for marker in request.node.iter_markers("component"):
        how = missing(marker.args[0])
        assert how is None, f"component `{marker.args[0]}` is required and missing: {how}"
