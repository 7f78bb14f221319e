"""From an empty folder to an approved version, by commands alone."""

import json
import os
import stat
from pathlib import Path

import msgspec
import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from experiments.document import ExperimentDocument
from gateway import pseudonyms
from gateway.cli import configure, experiment_run, key, model, trust, vault
from gateway.config.compile import compile_folder
from gateway.config.layout import Layout
from gateway.documents import encode
from gateway.processes.control import ControlDirectory, Current

REFERENCE = Path(__file__).parents[2] / "config"


@pytest.fixture(scope="module")
def cli():
    app = typer.Typer()
    configure.register(app)
    app.add_typer(trust.app, name="trust")
    app.add_typer(model.app, name="model")
    app.add_typer(key.app, name="key")
    experiment = typer.Typer()
    experiment_run.register(experiment)
    app.add_typer(experiment, name="experiment")
    audit = typer.Typer()
    vault.register(audit)
    app.add_typer(audit, name="audit")
    runner = CliRunner()

    def run(*arguments: object, code=0, typed=None):
        result = runner.invoke(app, [str(argument) for argument in arguments], input=typed)
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
        return result.stdout if code == 0 else result.stdout + result.stderr

    return run


@pytest.fixture
def deployment(tmp_path, cli):
    cli("init", tmp_path / "d")
    return tmp_path / "d"


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_init_copies_the_reference_configuration_byte_for_byte(deployment):
    assert files(deployment / "config") == {name: data for name, data in files(REFERENCE).items() if not name.name.startswith(".")}


def test_what_init_writes_passes_check(deployment, cli):
    assert cli("check", deployment).startswith("ok: 2 models, 6 experiments")
    assert json.loads(cli("check", deployment / "config", "--json"))["ok"] is True


def test_secrets_are_readable_by_their_owner_alone(deployment):
    for path in (deployment / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert {path.name for path in (deployment / "keys").iterdir()} == {"log.key", "api-keys.json", "alice.key", "bob.key"}


def experiments_of(folder):
    compiled = compile_folder(folder / "config")
    assert compiled.issues == ()
    return [msgspec.json.decode(compiled.objects[digest], type=ExperimentDocument) for digest in compiled.manifest.experiments.values()]


def test_no_experiment_that_init_writes_starts_by_itself(deployment):
    assert {document.experiment for document in experiments_of(deployment) if document.start != "manual"} == set()


NEW = ("--model", "credit-risk", "--champion", "3", "--challenger", "4")


def test_a_newcomer_adds_the_first_experiments_of_their_own_beside_those_of_init(deployment, cli):
    for strategy in ("canary", "ab", "champion_challenger", "blue_green", "shadow"):
        cli("experiment", "new", strategy, f"my-{strategy}", *NEW, "--dir", deployment)
    assert cli("check", deployment).startswith("ok: ")
    layers = {document.experiment: document.layer for document in experiments_of(deployment) if document.experiment.startswith("my-")}
    assert (layers["my-canary"].first, layers["my-canary"].last) == (200, 599)
    assert layers["my-shadow"] is None


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("mine", ("--model", "credit-rsik", "--champion", "3", "--challenger", "4"), "did you mean `credit-risk`?"),
        ("mine", ("--model", "credit-risk", "--champion", "3", "--challenger", "9"), "has no version `9`"),
        ("../mine", NEW, "is not a name"),
        ("mine!", NEW, "nothing was written"),
    ],
)
def test_an_experiment_that_would_not_hold_beside_the_others_is_not_written(deployment, cli, name, words, told):
    before = files(deployment)
    result = cli("experiment", "new", "canary", name, *words, "--dir", deployment, code=2 if "/" in name else 1)
    assert told in result
    assert files(deployment) == before


def test_where_no_slots_are_left_the_owners_are_named_and_nothing_is_written(deployment, cli):
    path = deployment / "config" / "experiments" / "credit-duel.yaml"
    path.write_text(path.read_text().replace("150-199", "150-999"))
    before = files(deployment)
    assert "`credit-duel` 150-999" in cli("experiment", "new", "canary", "mine", *NEW, "--dir", deployment, code=1)
    path.write_text("experiment: [")
    assert "has problems" in cli("experiment", "new", "canary", "mine", *NEW, "--dir", deployment, code=1)
    assert set(files(deployment)) == set(before)


def test_init_overwrites_nothing(deployment, cli):
    before = files(deployment)
    assert "not empty" in cli("init", deployment, code=2)
    assert files(deployment) == before


def test_a_secret_is_printed_once_and_kept_nowhere(deployment, cli):
    secret = json.loads(cli("key", "create", "--scope", "infer", "--dir", deployment, "--json"))["secret"]
    assert all(secret.encode() not in data for data in files(deployment).values())
    assert secret not in cli("key", "list", "--dir", deployment)


def test_keys_are_listed_and_revoked(deployment, cli):
    made = json.loads(cli("key", "create", "--scope", "infer", "--dir", deployment, "--json"))
    listed = json.loads(cli("key", "list", "--dir", deployment, "--json"))["keys"]
    assert [row["tenant"] for row in listed] == ["default", "default"], "one more key is one of the same tenant"
    cli("key", "revoke", made["id"], "--dir", deployment)
    assert len(json.loads(cli("key", "list", "--dir", deployment, "--json"))["keys"]) == 1
    assert "there is no key" in cli("key", "revoke", made["id"], "--dir", deployment, code=2)


def test_a_tenant_that_is_new_beside_others_is_never_made_by_a_slip(deployment, cli):
    before = files(deployment)
    told = cli("key", "create", "--tenant", "defualt", "--scope", "infer", "--dir", deployment, code=2)
    assert "`--tenant default`" in told
    assert "--new-tenant" in told
    assert files(deployment) == before
    cli("key", "create", "--tenant", "acme", "--new-tenant", "--scope", "infer", "--dir", deployment)
    assert "several tenants" in cli("key", "create", "--scope", "infer", "--dir", deployment, code=2), "among several it has to be named"
    cli("key", "create", "--tenant", "acme", "--scope", "infer", "--dir", deployment)


def test_a_second_tenant_leaves_somebody_who_sees_the_whole_gateway(deployment, cli):
    (first,) = json.loads(cli("key", "list", "--dir", deployment, "--json"))["keys"]
    assert "tenants:all" in first["scopes"], "who made the deployment answers for all of it"
    cli("key", "revoke", first["id"], "--dir", deployment)
    blind = json.loads(cli("key", "create", "--scope", "admin:read", "--scope", "experiment:operate", "--dir", deployment, "--json"))["id"]
    second = ("key", "create", "--tenant", "acme", "--new-tenant", "--scope", "infer", "--dir", deployment)
    told = cli(*second, code=2)
    assert blind in told
    command = told.split("`assay ")[-1].split("`")[0].split()
    assert "--scope tenants:all" in " ".join(command)
    cli(*command, "--dir", deployment)
    cli(*second)


def test_a_tenant_whose_keys_are_gone_is_known_by_its_records(deployment, cli):
    pseudonyms.save(deployment / "data" / "vault" / "epochs.json", {"default": [], "acme": []})
    cli("key", "create", "--tenant", "acme", "--scope", "infer", "--dir", deployment)
    (deployment / "data" / "vault" / "epochs.json").write_text("{")
    assert "cannot be read" in cli("key", "create", "--tenant", "acme", "--scope", "infer", "--dir", deployment, code=2)


def test_check_tells_a_careless_or_missing_secret(deployment, cli):
    (deployment / "keys" / "log.key").chmod(0o644)
    (deployment / "keys" / "api-keys.json").unlink()
    (deployment / "trust" / "root.json").write_text("{}")
    told = cli("check", deployment, code=1)
    assert "audit.key" in told
    assert "chmod 600" in told
    assert "keys.file" in told
    assert "trust root" in told


def test_check_reads_the_vaults_key_too(deployment, cli):
    path = deployment / "config" / "gateway.yaml"
    path.write_text(path.read_text() + "\nvault: {key: file:keys/vault.key}\n")
    assert "vault.key: " in cli("check", deployment, code=1)
    told = cli("audit", "vault-key", deployment / "keys" / "vault.key")
    assert "vault: {key: file:keys/vault.key}" in told, "the line to paste holds from the deployment's folder"
    assert cli("check", deployment).startswith("ok: ")


def test_check_names_default_versions_that_nobody_approved(deployment, cli):
    told = json.loads(cli("check", deployment, "--json"))["notes"]
    assert [note.partition(":")[0] for note in told][:2] == ["models/churn.yaml", "models/credit-risk.yaml"]
    assert "`assay model approve credit-risk 3`" in told[1]
    approve(cli, deployment, "alice")
    approve(cli, deployment, "bob")
    assert [note for note in json.loads(cli("check", deployment, "--json"))["notes"] if "credit-risk" in note] == []


ERASE = ("audit", "erase", "-", "--admin", "http://127.0.0.1:9")


def test_an_erasure_of_a_subject_from_standard_input_asks_at_the_terminal(deployment, cli, monkeypatch):
    """Standard input is used up by then: to ask there would be to hear no."""
    monkeypatch.setenv("ASSAY_KEY", "assay_none")
    monkeypatch.setattr(vault, "TERMINAL", deployment / "no terminal")
    assert "--yes" in cli(*ERASE, code=2, typed="customer-77")
    person, terminal = os.openpty()
    monkeypatch.setattr(vault, "TERMINAL", Path(os.ttyname(terminal)))
    os.write(person, b"n\n")
    assert "does not answer" not in cli(*ERASE, code=1, typed="customer-77")
    os.write(person, b"y\n")
    assert "does not answer" in cli(*ERASE, code=3, typed="customer-77"), "it went on, to a gateway that is not there"
    assert b"Go on? [y/N]" in os.read(person, 4096)
    os.close(person)
    os.close(terminal)


def test_check_exits_1_and_names_the_place(deployment, cli):
    path = deployment / "config" / "gateway.yaml"
    path.write_text(path.read_text().replace("workers:", "wrokers:"))
    told = cli("check", deployment, code=1)
    assert "gateway.yaml:" in told
    assert "did you mean `workers`?" in told


def approve(cli, deployment, person, version="3", code=0, **options: str):
    more = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    path = deployment / "keys" / f"{person}.key"
    return cli("model", "approve", "credit-risk", version, "--as", person, "--key", path, "--dir", deployment, "--json", *more, code=code)


def version_row(cli, deployment, version):
    rows = json.loads(cli("model", "list", "--dir", deployment, "--json"))["versions"]
    return next(row for row in rows if row["version"] == version)


def test_a_version_of_high_risk_serves_once_two_people_have_approved_it(deployment, cli):
    assert version_row(cli, deployment, "3")["reason"] == "approval.missing"
    assert json.loads(approve(cli, deployment, "alice"))["reason"] == "approval.threshold"
    assert json.loads(approve(cli, deployment, "alice"))["in_force"] is False
    assert json.loads(approve(cli, deployment, "bob"))["in_force"] is True
    row = version_row(cli, deployment, "3")
    assert (row["in_force"], row["approved_by"]) == (True, ["alice", "bob"])
    assert version_row(cli, deployment, "4")["in_force"] is False


def test_one_person_takes_a_version_out(deployment, cli):
    approve(cli, deployment, "alice")
    approve(cli, deployment, "bob")
    key_path = deployment / "keys" / "bob.key"
    cli("model", "revoke", "credit-risk", "3", "--as", "bob", "--key", key_path, "--reason", "wrong data", "--dir", deployment)
    assert version_row(cli, deployment, "3")["reason"] == "approval.revoked"


def test_a_changed_upstream_or_use_needs_new_approvals(deployment, cli):
    approve(cli, deployment, "alice")
    approve(cli, deployment, "bob")
    path = deployment / "config" / "models" / "credit-risk.yaml"
    text = path.read_text()
    path.write_text(text.replace("http://127.0.0.1:9003", "http://127.0.0.1:9999"))
    assert version_row(cli, deployment, "3")["reason"] == "approval.origin"
    path.write_text(text.replace("consumer credit, EU", "marketing"))
    assert version_row(cli, deployment, "3")["reason"] == "approval.purpose"


def test_a_tampered_envelope_is_named_and_does_not_count(deployment, cli):
    approve(cli, deployment, "alice")
    envelope = Path(json.loads(approve(cli, deployment, "bob"))["file"])
    envelope.write_bytes(envelope.read_bytes().replace(b'"sig":"', b'"sig":"A', 1))
    assert version_row(cli, deployment, "3")["reason"] == "approval.threshold"


@pytest.mark.parametrize(
    ("person", "key_of", "message"),
    [("alice", "bob", "belongs to `bob`"), ("carol", "alice", "belongs to `alice`")],
)
def test_nobody_signs_as_someone_else(deployment, cli, person, key_of, message):
    path = deployment / "keys" / f"{key_of}.key"
    assert message in cli("model", "approve", "credit-risk", "3", "--as", person, "--key", path, "--dir", deployment, code=2)


@pytest.mark.parametrize(
    "options", [{"valid_for": "400d"}, {"valid_for": "90"}, {"max_exposure": "0%"}, {"max_exposure": "5"}, {"evidence": "/nowhere"}]
)
def test_an_approval_that_cannot_hold_is_not_written(deployment, cli, options):
    approve(cli, deployment, "alice", code=2, **options)
    assert list((deployment / "approvals").iterdir()) == []


def test_an_unknown_version_is_told_with_those_there_are(deployment, cli):
    assert "versions: 3, 4" in approve(cli, deployment, "alice", version="7", code=2)


def ssh_key(folder, seed):
    private = Ed25519PrivateKey.from_private_bytes(seed * 32)
    (folder / "id").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (folder / "id").chmod(0o600)
    (folder / "id.pub").write_bytes(private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" me@laptop\n")


def test_a_person_with_an_ssh_key_joins_by_the_old_roots_people_and_approves(deployment, cli, tmp_path):
    ssh_key(tmp_path, b"c")
    before = Layout.of(deployment).trust_root.read_bytes()
    cli("trust", "add-person", "carol", "--public-key", tmp_path / "id.pub", "--dir", deployment)
    assert Layout.of(deployment).trust_root.read_bytes() == before
    assert "not in trust root" in cli("model", "approve", "credit-risk", "3", "--as", "carol", "--key", tmp_path / "id", "--dir", deployment, code=2)
    cli("trust", "sign", "--key", tmp_path / "id", "--dir", deployment, code=3)
    assert Layout.of(deployment).trust_root.read_bytes() == before
    cli("trust", "sign", "--key", deployment / "keys" / "alice.key", "--dir", deployment)
    assert json.loads(Layout.of(deployment).trust_root.read_bytes())["version"] == 2
    cli("model", "approve", "credit-risk", "3", "--as", "carol", "--key", tmp_path / "id", "--dir", deployment)
    approve(cli, deployment, "bob")
    assert version_row(cli, deployment, "3")["approved_by"] == ["bob", "carol"]


def test_a_root_is_never_made_anew_over_an_old_one(deployment, cli):
    assert "exists" in cli("trust", "init", "--person", "mallory", "--dir", deployment, code=2)


def test_schema_prints_json_schema_of_each_kind(cli):
    assert set(json.loads(cli("schema"))) == {"gateway", "model", "experiment", "layers", "metrics", "modes"}
    assert json.loads(cli("schema", "model"))["properties"]["risk"]["enum"] == ["low", "medium", "high"]
    assert json.loads(cli("schema", "model"))["additionalProperties"] is False
    assert "there is no kind" in cli("schema", "modle", code=2)


def test_plan_against_nothing_adds_everything(deployment, cli):
    changes = json.loads(cli("plan", deployment, "--json"))["changes"]
    assert {(change["kind"], change["action"]) for change in changes} == {
        ("settings", "added"),
        ("model", "added"),
        ("experiment", "added"),
        ("policy", "added"),
    }


def test_plan_says_what_changes_and_who_moves(deployment, cli):
    compiled = compile_folder(deployment / "config")
    control = ControlDirectory(deployment / "data")
    control.create()
    control.put_many(dict(compiled.objects))
    control.publish(Current(control.put(encode(compiled.manifest)), "", 0))
    assert json.loads(cli("plan", deployment, "--json")) == {"against": f"what is in force, {compiled.digest[:12]}", "changes": [], "movements": []}
    path = deployment / "config" / "experiments" / "credit-ab.yaml"
    path.write_text(path.read_text().replace("{control: 50%, treatment: 50%}", "{control: 60%, treatment: 40%}"))
    planned = json.loads(cli("plan", deployment, "--json"))
    (change,) = planned["changes"]
    assert (change["name"], change["action"], change["fields"]) == ("credit-ab", "changed", ["split"])
    (movement,) = planned["movements"]
    assert "steps" not in cli("plan", deployment), "its file has none"
    # A tenth of the units are in the layer's slots of credit-ab; a tenth of those goes from version 4 to version 3, and nobody the other way.
    assert set(movement["by_pair"]) == {"4 -> 3"}
    assert 60 < movement["moved"] < 140


def test_plan_refuses_what_does_not_compile(deployment, cli):
    (deployment / "config" / "gateway.yaml").write_text("environment: nowhere\n")
    assert "cannot be planned" in cli("plan", deployment, code=1)


def test_a_folder_without_configuration_is_told_what_to_do(tmp_path, cli):
    for command in (("check",), ("plan",)):
        assert "assay init" in cli(*command, tmp_path, code=2)
