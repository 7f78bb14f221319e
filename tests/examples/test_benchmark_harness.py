"""The benchmark harness: what it sends, how it counts, what it writes. One short real run where wrk and nginx are present."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.lane import LAYOUTS, measure
from benchmarks.load import REPLY_BYTES, chat_reply, chat_traffic, lua_script, parse_result, request_example, v2_reply, v2_traffic
from benchmarks.peers import PEERS
from benchmarks.peers.assay import AssayNativeBare
from benchmarks.peers.deployment import Shape, write_configuration
from benchmarks.peers.direct import Direct
from benchmarks.peers.nginx import NginxBare, NginxGoverned
from benchmarks.processes import Usage, spent, start, stop, tree, usage_by_role
from benchmarks.report import Sample, markdown_table, rows


def sample(peer, worker, *, beside=0.0, p50=1000.0, layout="pinned", trouble=""):
    return Sample(peer, layout, 100, 50.0, {"worker": worker, "recorder": beside}, 10_000_000, p50, p50 * 2, p50 * 3, trouble)


def test_replies_have_the_stated_length_and_are_json():
    for reply in (v2_reply(), chat_reply()):
        assert len(reply) == REPLY_BYTES
        json.loads(reply)


@pytest.mark.parametrize("traffic", [v2_traffic(), chat_traffic("m"), chat_traffic("m", names_model=False)])
def test_requests_are_about_300_bytes_of_json_of_constant_length(traffic):
    small, large = request_example(traffic, 1), request_example(traffic, 99_999_999)
    assert len(small) == len(large)
    assert 240 <= len(small) <= 340
    assert small != large


def test_every_request_body_is_json():
    for traffic, key in ((v2_traffic(), "inputs"), (chat_traffic("m"), "messages")):
        for number in (0, 1, 99_999_999):
            assert json.loads(request_example(traffic, number))[key]


def test_script_announces_the_true_length_and_carries_the_headers():
    traffic = v2_traffic((("Authorization", "Bearer k"),))
    script = lua_script(traffic, "127.0.0.1:1")
    assert f"Content-Length: {len(request_example(traffic))}\\r\\n" in script
    assert "Authorization: Bearer k\\r\\n" in script


def test_result_line_is_read_and_unclean_runs_are_known():
    line = 'RESULT {"requests":10,"duration_us":2000000,"not_2xx":%d,"broken":0,"p50":1.5,"p99":2.5,"p999":3.5,"max":4.5}'
    clean = parse_result("noise\n" + line % 0)
    assert (clean.duration_s, clean.p999_us, clean.is_clean) == (2.0, 3.5, True)
    assert not parse_result(line % 1).is_clean
    with pytest.raises(RuntimeError, match="no result"):
        parse_result("unable to connect")


def test_rows_are_medians_with_ratios_to_nginx_and_latency_less_direct_of_the_same_round():
    rounds = [
        [sample("direct", 5, p50=5000 + base), sample("nginx", 10, p50=5300 + base), sample("ours", worker, beside=5, p50=5900 + base)]
        for base, worker in ((0, 20), (900, 40), (100, 30))
    ]
    ours = {row.peer: row for row in rows(rounds, ["direct", "nginx", "ours"], "pinned")}["ours"]
    assert (ours.worker_cpu_us, ours.beside_cpu_us, ours.total_cpu_us) == (30, 5, 35)
    assert (ours.times_nginx_worker, ours.times_nginx_total) == (3.0, 3.5)
    assert ours.added_us[0] == 900
    assert "| ours | 30.0 | 5.0 | 35.0 | 3.00 / 3.50 |" in markdown_table([ours])


def test_a_troubled_sample_does_not_count_and_other_layouts_do_not_mix():
    rounds = [[sample("nginx", 10), sample("nginx", 99, layout="unpinned")], [sample("nginx", 90, trouble="3 answers not 2xx")]]
    (row,) = rows(rounds, ["nginx", "absent"], "pinned")
    assert (row.rounds, row.worker_cpu_us, row.added_us) == (1, 10, None)


def test_usage_of_a_role_that_appeared_later_counts_from_nothing():
    after = {"worker": Usage(3.0, 1.0, 7), "recorder": Usage(0.5, 0.5, 3)}
    found = spent({"worker": Usage(1.0, 0.5, 5)}, after)
    assert found == {"worker": Usage(2.0, 0.5, 7), "recorder": Usage(0.5, 0.5, 3)}


def test_a_tree_is_seen_by_role_and_stopped_whole(tmp_path):
    script = "import subprocess,sys,time; subprocess.Popen([sys.executable,'-c','import time; time.sleep(60)  # child']); time.sleep(60)"
    process = start([sys.executable, "-c", script], tmp_path / "log", None)
    for _ in range(200):
        pids = tree(process.pid)
        roles = usage_by_role(process.pid, lambda command: "parent" if "subprocess" in command else "child")
        if len(pids) == 2 and set(roles) == {"parent", "child"}:
            break
    assert set(roles) == {"parent", "child"}
    assert all(usage.resident_bytes > 0 for usage in roles.values())
    stop(process)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()]


def test_assay_processes_are_told_apart_by_module():
    peer = AssayNativeBare()
    assert peer.role_of("python -m gateway.processes.worker --index 0") == "worker"
    assert peer.role_of("python -m gateway.processes.recorder") == "recorder"
    assert peer.role_of("python assay serve") == "parent"


def test_gateway_names_are_unique():
    assert len({kind.name for kind in PEERS}) == len(PEERS)


SHAPE = Shape(8080, 8081, 1, 9001, split=True, schema=True, more_models=4, more_experiments=10)


def test_generated_configuration_is_the_same_twice_and_has_the_stated_size(tmp_path):
    trees = []
    for name in ("a", "b"):
        write_configuration(tmp_path / name, SHAPE)
        root = tmp_path / name
        trees.append({path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*.yaml"))})
    assert trees[0] == trees[1]
    assert len(list((tmp_path / "a/config/models").glob("*.yaml"))) == 5
    assert len(list((tmp_path / "a/config/experiments").glob("experiment-*.yaml"))) == 10


def test_a_smaller_configuration_leaves_nothing_of_the_larger_one(tmp_path):
    write_configuration(tmp_path, SHAPE)
    write_configuration(tmp_path, Shape(8080, 8081, 1, 9001))
    assert [path.name for path in (tmp_path / "config/models").iterdir()] == ["bench.yaml"]
    assert not list((tmp_path / "config/experiments").iterdir())


def test_experiments_of_one_model_never_share_a_slot(tmp_path):
    write_configuration(tmp_path, SHAPE)
    taken: dict[str, set[int]] = {}
    for path in (tmp_path / "config/experiments").glob("experiment-*.yaml"):
        document = yaml.safe_load(path.read_text())
        first, last = (int(end) for end in document["layer"]["slots"].split("-"))
        slots = set(range(first, last + 1))
        assert slots <= set(range(1000))
        assert not taken.setdefault(document["model"], set()) & slots
        taken[document["model"]] |= slots
    assert len(taken) == 4


def test_generated_files_are_accepted_by_the_gateways_own_readers(tmp_path):
    from experiments.config import parse_experiment
    from gateway.config.gateway_file import GatewayFile
    from gateway.config.model_file import ModelFile, check_model

    write_configuration(tmp_path, SHAPE)
    config = tmp_path / "config"
    GatewayFile.model_validate(yaml.safe_load((config / "gateway.yaml").read_text()))
    for path in (config / "models").glob("*.yaml"):
        assert check_model(ModelFile.model_validate(yaml.safe_load(path.read_text())), path.stem) == []
    for path in (config / "experiments").glob("[!_]*.yaml"):
        assert parse_experiment(yaml.safe_load(path.read_text())).experiment == path.stem


@pytest.mark.skipif(not (shutil.which("wrk") and NginxBare.missing() is None), reason="wrk or nginx absent: apt-get install wrk nginx-light")
def test_a_short_real_run_measures_nginx_and_its_governed_form_without_one_lost_call():
    (samples,) = measure([Direct, NginxBare, NginxGoverned], [LAYOUTS["unpinned"]], rounds=1, seconds=1)
    assert [one.trouble for one in samples] == ["", "", ""]
    assert all(one.cpu_us["worker"] > 0 and one.p50_us >= 5000 for one in samples)


def test_the_command_refuses_a_gateway_it_does_not_know():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.lane", "--peers", "apache"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no gateway called `apache`" in done.stderr
