"""The gateways that are measured, each a small class in a file of its own, in the order of the table."""

from __future__ import annotations

from benchmarks.peers.assay import AssayEverything, AssayNativeBare, AssayPortable
from benchmarks.peers.caddy import Caddy
from benchmarks.peers.direct import Direct
from benchmarks.peers.haproxy import Haproxy
from benchmarks.peers.litellm import LiteLlm
from benchmarks.peers.mlflow import MlflowGateway
from benchmarks.peers.nginx import NginxBare, NginxGoverned
from benchmarks.peers.peer import Peer

PEERS: tuple[type[Peer], ...] = (
    Direct,
    NginxBare,
    NginxGoverned,
    Haproxy,
    Caddy,
    AssayNativeBare,
    AssayEverything,
    AssayPortable,
    MlflowGateway,
    LiteLlm,
)
