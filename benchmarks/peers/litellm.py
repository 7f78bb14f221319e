"""LiteLLM's proxy, configured lean: no database, no master key, errors alone in its log.

It translates and accounts costs, which the others do not: read its row as CPU per call of a gateway, not as like for like.
"""

from __future__ import annotations

from benchmarks.load import Traffic, chat_traffic
from benchmarks.peers.peer import Peer, Setting, find


class LiteLlm(Peer):
    """Chat completions to an OpenAI-compatible upstream."""

    name = "litellm"
    executable = "litellm"
    get_it = "put the `litellm` of an environment with `litellm[proxy]` on PATH"
    start_timeout_s = 90.0

    def prepare(self, setting: Setting) -> None:
        """Write config.yaml."""
        (setting.folder / "config.yaml").write_text(f"""model_list:
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:{setting.upstream_port}/v1
      api_key: none
""")

    def command(self, setting: Setting) -> list[str]:
        """Run the proxy with one worker per core."""
        program = find("litellm") or "litellm"
        files = ["--config", str(setting.folder / "config.yaml")]
        return [program, *files, "--host", "127.0.0.1", "--port", str(setting.port), "--num_workers", str(setting.cores)]

    def environment(self, setting: Setting) -> dict[str, str]:  # noqa: ARG002 - the signature is the peer's
        """Production mode, no look-ups elsewhere."""
        lean = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        return {**lean, "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}  # newer ones refuse to start without a key

    def traffic(self, setting: Setting) -> Traffic:  # noqa: ARG002 - the signature is the peer's
        """Chat completions."""
        return chat_traffic("bench")

    @classmethod
    def version_command(cls) -> list[str]:
        """LiteLLM prints its version by a flag of its own."""
        return ["litellm", "--version"]
