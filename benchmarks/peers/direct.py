"""No gateway: wrk to the upstream. Gives the latency that the others add to; its CPU is the upstream's own."""

from __future__ import annotations

from benchmarks.peers.nginx import upstream_configuration
from benchmarks.peers.peer import Peer, Setting, find


class Direct(Peer):
    """An upstream of its own, so that the table's first row says what answering alone costs."""

    name = "direct"
    executable = "nginx"
    get_it = "apt-get install nginx-light"

    def prepare(self, setting: Setting) -> None:
        """Write the upstream's configuration on the gateway's port."""
        (setting.folder / "nginx.conf").write_text(upstream_configuration(setting.folder, setting.port, setting.cores))

    def command(self, setting: Setting) -> list[str]:
        """Run nginx in the foreground."""
        return [find("nginx") or "nginx", "-p", str(setting.folder), "-c", str(setting.folder / "nginx.conf")]
