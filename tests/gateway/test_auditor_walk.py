"""The auditor's page, walked by a stranger: every command on it, in its order, from a public key to a verified answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from deployment import CHECKOUT, ENVIRONMENT, Deployment, wait_until

PAGE = (CHECKOUT / "docs" / "auditor.md").read_text()


@pytest.mark.component("openssl")
def test_a_stranger_gets_from_the_public_key_to_a_verified_answer(spine: Deployment, tmp_path: Path):
    spine.add_key("stranger", "audit:read", "tenants:all")
    for number in range(5):
        spine.infer("split", unit=f"walk {number}")
    refused = spine.infer("unapproved")
    place = wait_until(lambda: spine.record(refused.headers["assay-decision"]), "the refusal to be recorded")
    bearer = {"authorization": f"Bearer {spine.keys['stranger']}"}
    found = {"decision": place["id"]}
    wait_until(lambda: spine.client.get(f"{spine.admin}/api/records", params=found, headers=bearer).json().get("rows"), "the index")
    index = spine.client.get(f"{spine.admin}/api/records", params=found, headers=bearer).json()["rows"][0]["idx"]
    spine.wait_signed(index)

    script = "set -euo pipefail\n" + "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    environment = {
        **ENVIRONMENT,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "VKEY": str(spine.vkey),
        "ADMIN": spine.admin,
        "KEY": spine.keys["stranger"],
        "COLUMNS": "200",
    }
    begun_s = time.monotonic()
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - begun_s < 600
    for line in (r"chain +ok", r"tamper +ok", r"completeness +ok", r"independence +ok"):
        assert re.search(line, done.stdout), done.stdout
    assert "they are every record from 0 up to 5" in done.stdout
    assert "ok: 1 records" in done.stdout or re.search(r"ok: \d+ records are in the signed tree", done.stdout)
    assert place["id"] in (tmp_path / "refused.csv").read_text()
    with zipfile.ZipFile(tmp_path / "refused.zip") as bundle:
        records = [json.loads(bundle.read(name)) for name in bundle.namelist() if name.endswith(".leaf")]
    assert place["id"] in {record["id"] for record in records}
    assert {record["policy"]["decision"] for record in records if "policy" in record} == {"deny"}
