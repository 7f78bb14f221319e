"""`assay serve --transport portable`: real processes, the same life as with the native transport."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))  # the deployment and the models of the gateway's own tests

from deployment import CHECKOUT, COMMAND, Deployment, wait_until
from upstreams import Models


class PortableDeployment(Deployment):
    def start(self, *, wait: bool = True) -> None:
        words = (*COMMAND, "serve", str(self.directory), "--node", "t", "--transport", "portable")
        with (self.directory / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd=CHECKOUT)
        if wait:
            self.wait_ready()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    with Models() as models:
        made = PortableDeployment(tmp_path_factory.mktemp("portable") / "d")
        url = models.add("1").url
        made.write_model("m", {"1": url}, capture={"prediction": "/outputs/0/data/0"})
        made.approve("m", "1", url=url)
        made.model_url = url
        yield made
        made.close()


def test_it_serves_follows_the_configuration_and_finishes_what_runs_when_it_ends(deployment):
    deployment.start()
    reply = deployment.infer("m")
    assert (reply.status_code, reply.json()["model_version"]) == (200, "1")
    record = deployment.outcome(reply.headers["assay-decision"])
    assert (record["outcome"]["status"], record["prediction"]) == (200, "1")

    deployment.write_model("n", {"1": deployment.model_url})
    deployment.approve("n", "1", url=deployment.model_url)
    wait_until(lambda: deployment.infer("n").status_code == 200, "a model added while it runs")
    settings = (deployment.layout.config / "gateway.yaml").read_text()
    deployment.write_config("gateway.yaml", settings.replace("body_limit: 64KiB", "body_limit: 1KiB"))
    wait_until(lambda: deployment.infer("n", content=b" " * 1025).status_code == 413, "a smaller bound on bodies")
    assert deployment.infer("n").status_code == 200
    deployment.wait_idle()

    late = []
    caller = threading.Thread(target=lambda: late.append(deployment.infer("m", behave="slow:1.5")))
    caller.start()
    wait_until(lambda: any(status["in_flight"] for status in deployment.statuses()), "the call to be in flight")
    assert deployment.stop() == 0
    caller.join(10)
    assert [one.status_code for one in late] == [200], "the call that ran was finished"
    last = deployment.outcome(late[0].headers["assay-decision"])
    assert (last["type"], last["outcome"]["status"]) == ("outcome", 200)
    verdict = deployment.verify()
    assert [str(check.grade) for check in (verdict.chain, verdict.tamper, verdict.completeness)] == ["ok"] * 3
    assert "defect" not in deployment.output()
