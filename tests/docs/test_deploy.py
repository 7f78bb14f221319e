"""The unit and the container file give the gateway what it needs and nothing else."""

import re
import shutil
import subprocess
import tomllib

import pytest
from pages import ROOT, commands, options

UNIT = (ROOT / "deploy" / "assay.service").read_text()
IMAGE = (ROOT / "deploy" / "Containerfile").read_text()
SETTINGS = re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE)


def setting(name):
    return [value for key, value in SETTINGS if key == name]


def test_the_unit_runs_as_nobody_special_and_writes_only_the_data():
    assert setting("User") == ["assay"]
    assert setting("ReadWritePaths") == ["/srv/assay/data /srv/assay/marks"]
    assert setting("ProtectSystem") == ["strict"]
    assert setting("CapabilityBoundingSet") == [""]
    assert setting("NoNewPrivileges") == ["yes"]


def test_the_unit_gives_the_gateway_longer_to_stop_than_its_own_parts_may_take():
    from gateway.processes import parent

    assert int(setting("TimeoutStopSec")[0]) > 3 * parent._STOP_S


def test_what_restarting_does_not_mend_is_not_restarted():
    from gateway.processes.parent import Status

    assert setting("RestartPreventExitStatus") == [str(int(Status.CONFIGURATION))]


@pytest.mark.parametrize("line", [*setting("ExecStart"), "assay " + " ".join(re.findall(r'"([^"]+)"', IMAGE.rsplit("CMD", 1)[1]))])
def test_the_command_that_is_started_exists_with_its_options(line):
    words = line.split()
    name = f"assay {words[1]}"
    assert {word for word in words if word.startswith("--")} <= options(commands()[name])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: `apt-get install systemd`")
def test_systemd_accepts_the_unit(tmp_path):
    unit = tmp_path / "assay.service"
    unit.write_text(UNIT.replace("/opt/assay/bin/assay", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_holds_everything_the_build_takes_and_nothing_that_is_not_there():
    copied = {path for line in re.findall(r"^COPY (?!--)(.*) \S+$", IMAGE, re.MULTILINE) for path in line.split()}
    assert {path for path in copied if not (ROOT / path).exists()} == set()
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["packages"], *wheel["force-include"]} <= copied


def test_the_image_does_not_run_as_root():
    last = re.findall(r"^USER (\S+)$", IMAGE, re.MULTILINE)[-1]
    assert last.split(":")[0] not in {"root", "0"}
