"""A model whose classes have spaces, through a whole gateway: recorded, labelled, and told in its own words."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import Result
from deployment import Deployment
from typer.testing import CliRunner
from upstreams import Asked, Model, Models

from gateway.cli.main import app


class Breeds(Model):
    """Says `golden retriever`, and `grey hound`, which no file declares, on request."""

    def reply(self, asked: Asked) -> bytes:
        said = "grey hound" if "x-grey" in asked.headers else "golden retriever"
        return json.dumps({"outputs": [{"data": [said]}, {"data": [0.75]}]}).encode()


def test_a_class_with_a_space_is_recorded_labelled_and_reported_where_it_is_declared(tmp_path: Path, models: Models):
    breeds = models.add("1", Breeds)
    deployment = Deployment(tmp_path / "d")
    capture = {"prediction": "/outputs/0/data/0", "classes": ["golden retriever", "great dane"]}
    deployment.write_model("breed", {"1": breeds.url}, capture=capture)
    deployment.approve("breed", "1", url=breeds.url)

    def label(decision: str, said: str) -> int:
        event = {"decision_id": decision, "label": said}
        return deployment.client.post(f"{deployment.front}/feedback", json=event, headers=deployment.bearer("product")).status_code

    with deployment.running():
        for said in ("golden retriever", "great dane"):
            decision = deployment.infer("breed").headers["assay-decision"]
            assert deployment.outcome(decision)["prediction"] == "golden%20retriever"
            assert label(decision, said) == 202
        assert label(decision, "grey hound") == 422
        grey = deployment.client.post(
            f"{deployment.front}/v2/models/breed/infer",
            json={"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]},
            headers={**deployment.bearer("product"), "x-grey": "1"},
        )
        assert grey.json()["outputs"][0]["data"] == ["grey hound"], "callers get what the model said"
        assert "prediction" not in deployment.outcome(grey.headers["assay-decision"])
        deployment.wait_signed(len(deployment.log.refresh()) - 1)
        done: Result = CliRunner().invoke(app, ["report", "evaluation", "--data", str(deployment.data), "--format", "json"])
    (model,) = json.loads(done.stdout)["body"]["models"]
    assert model["classes"] == ["golden retriever", "great dane"]
    assert model["confusion"] == [
        {"prediction": "golden retriever", "label": "golden retriever", "rows": 1},
        {"prediction": "golden retriever", "label": "great dane", "rows": 1},
    ]
    assert model["quality"]["accuracy"]["value_ppm"] == 500_000
    assert "grey" not in json.dumps(deployment.log.refresh())
