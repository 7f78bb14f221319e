"""Caddy as a bare reverse proxy."""

from __future__ import annotations

from benchmarks.peers.peer import Peer, Setting, find


class Caddy(Peer):
    """`reverse_proxy` with the admin API off."""

    name = "caddy"
    executable = "caddy"
    get_it = "apt-get install caddy"

    def prepare(self, setting: Setting) -> None:
        """Write the Caddyfile."""
        (setting.folder / "Caddyfile").write_text(f"""{{
  admin off
  auto_https off
}}
http://127.0.0.1:{setting.port} {{
  reverse_proxy 127.0.0.1:{setting.upstream_port}
}}
""")

    def command(self, setting: Setting) -> list[str]:
        """Run Caddy in the foreground."""
        return [find("caddy") or "caddy", "run", "--adapter", "caddyfile", "--config", str(setting.folder / "Caddyfile")]

    def environment(self, setting: Setting) -> dict[str, str]:
        """As many running threads as cores, and no files in the user's home."""
        return {
            "GOMAXPROCS": str(setting.cores),
            "HOME": str(setting.folder),
            "XDG_DATA_HOME": str(setting.folder),
            "XDG_CONFIG_HOME": str(setting.folder),
        }

    @classmethod
    def version_command(cls) -> list[str]:
        """Caddy has a subcommand for it."""
        return ["caddy", "version"]
