"""HAProxy as a bare reverse proxy."""

from __future__ import annotations

from benchmarks.peers.peer import Peer, Setting, find


class Haproxy(Peer):
    """HTTP mode, kept-alive and reused server connections."""

    name = "haproxy"
    executable = "haproxy"
    get_it = "apt-get install haproxy"

    def prepare(self, setting: Setting) -> None:
        """Write haproxy.cfg."""
        (setting.folder / "haproxy.cfg").write_text(f"""global
  nbthread {setting.cores}
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  http-reuse always
frontend front
  bind 127.0.0.1:{setting.port}
  default_backend model
backend model
  server one 127.0.0.1:{setting.upstream_port}
""")

    def command(self, setting: Setting) -> list[str]:
        """Run HAProxy in the foreground."""
        return [find("haproxy") or "haproxy", "-db", "-f", str(setting.folder / "haproxy.cfg")]
