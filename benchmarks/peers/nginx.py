"""nginx: bare reverse proxy; with an auth subrequest and a rate limit; and as the upstream that answers at once."""

from __future__ import annotations

from pathlib import Path

from benchmarks.load import Traffic, chat_reply, v2_reply, v2_traffic
from benchmarks.peers.peer import Peer, Setting, find


def _main(folder: Path, workers: int, http: str) -> str:
    temporary = "\n".join(f"  {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""daemon off;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
{temporary}
  keepalive_requests 100000000;
  keepalive_timeout 300s;
  default_type application/json;
{http}
}}
"""


def upstream_configuration(folder: Path, port: int, workers: int = 1) -> str:
    """Return an nginx that answers every path at once with a constant; `/auth` with 204."""
    return _main(
        folder,
        workers,
        f"""  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /auth {{ return 204; }}
    location ~ /chat/ {{ return 200 '{chat_reply().decode()}'; }}
    location / {{ return 200 '{v2_reply().decode()}'; }}
  }}""",
    )


class NginxBare(Peer):
    """A plain `proxy_pass` with kept-alive upstream connections: the yardstick."""

    name = "nginx"
    executable = "nginx"
    get_it = "apt-get install nginx-light"
    before_server = ""
    in_location = ""
    more_locations = ""

    def prepare(self, setting: Setting) -> None:
        """Write nginx.conf."""
        proxy = f"""    location / {{
      {self.in_location}
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
    {self.more_locations}"""
        http = f"""  upstream model {{ server 127.0.0.1:{setting.upstream_port}; keepalive 256; keepalive_requests 100000000; }}
  upstream authority {{ server 127.0.0.1:{setting.authority_port}; keepalive 256; keepalive_requests 100000000; }}
  {self.before_server}
  server {{
    listen 127.0.0.1:{setting.port} backlog=4096;
{proxy}
  }}"""
        (setting.folder / "nginx.conf").write_text(_main(setting.folder, setting.cores, http))

    def command(self, setting: Setting) -> list[str]:
        """Run nginx in the foreground."""
        return [find("nginx") or "nginx", "-p", str(setting.folder), "-c", str(setting.folder / "nginx.conf")]


class NginxGoverned(NginxBare):
    """What people put together from nginx to govern calls: an auth subrequest per call and a rate limit per key.

    The subrequest goes to a server that answers 204 at once, however slow the model is: a lower bound for any real authority. The limit is far above
    the load, so that it is computed and never hit.
    """

    name = "nginx + auth_request + limit_req"
    before_server = "limit_req_zone $http_authorization zone=calls:10m rate=1000000r/s;"
    in_location = "auth_request /_auth; limit_req zone=calls burst=100000 nodelay;"
    more_locations = """location = /_auth {
      internal;
      proxy_pass http://authority/auth;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
    }"""

    def traffic(self, setting: Setting) -> Traffic:  # noqa: ARG002 - the signature is the peer's
        """V2 calls with a key for the subrequest to look at."""
        return v2_traffic((("Authorization", "Bearer 0123456789abcdef0123456789abcdef"),))
