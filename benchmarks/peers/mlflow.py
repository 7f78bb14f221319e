"""MLflow's gateway (`mlflow gateway start`): gunicorn with uvicorn workers; chat completions alone."""

from __future__ import annotations

from benchmarks.load import Traffic, chat_traffic
from benchmarks.peers.peer import Peer, Setting, find


class MlflowGateway(Peer):
    """One chat endpoint to an OpenAI-compatible upstream. It refuses `model` in the body."""

    name = "mlflow gateway"
    executable = "mlflow"
    get_it = "put the `mlflow` of an environment with `mlflow[genai]` on PATH"
    start_timeout_s = 60.0

    def prepare(self, setting: Setting) -> None:
        """Write gateway.yaml."""
        (setting.folder / "gateway.yaml").write_text(f"""endpoints:
  - name: bench
    endpoint_type: llm/v1/chat
    model:
      provider: openai
      name: bench
      config:
        openai_api_key: none
        openai_api_base: http://127.0.0.1:{setting.upstream_port}/v1
""")

    def command(self, setting: Setting) -> list[str]:
        """Run the gateway with one worker per core."""
        program = find("mlflow") or "mlflow"
        files = ["--config-path", str(setting.folder / "gateway.yaml")]
        where = ["--host", "127.0.0.1", "--port", str(setting.port), "--workers", str(setting.cores)]
        return [program, "gateway", "start", *files, *where]

    def traffic(self, setting: Setting) -> Traffic:  # noqa: ARG002 - the signature is the peer's
        """Chat completions on the endpoint's own path."""
        return chat_traffic("bench", "/gateway/bench/invocations", names_model=False)

    @classmethod
    def version_command(cls) -> list[str]:
        """MLflow prints its version by a flag."""
        return ["mlflow", "--version"]
