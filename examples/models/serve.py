"""Serve one model version over the Open Inference Protocol v2 (JSON). One process per version.

Rules:
- The version is trained before the socket answers: whoever gets a reply gets it from a fitted model.
- One line of JSON on standard output says where it listens and what it is (digest, measured held-out accuracy). Port 0 picks a free port.
- Errors have the v2 shape `{"error": "..."}`: 400 bad request, 404 unknown model or version, 405, 413 too large, 415 not JSON.
- SIGTERM or SIGINT: no new connections, calls in progress are answered, then exit.

Example:
    $ python -m examples.models.serve --version 4 --port 9004
    {"accuracy": ..., "digest": "sha256:...", "ready": true, "url": "http://127.0.0.1:9004", "version": "4"}
    $ curl http://127.0.0.1:9004/v2/models/tumour-triage/ready
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .tensors import OUTPUTS, BadTensors, parse_request, render_reply
from .train import FEATURES, MODEL, RECIPES, TrainedVersion, train

BODY_LIMIT_BYTES = 1 << 20
STOP_TIMEOUT_S = 5
SERVER = {"name": "assay-example-models", "version": "1", "extensions": []}


class ModelEndpoints:
    """The v2 endpoints of one trained version. Holds no state but the version."""

    def __init__(self, version: TrainedVersion) -> None:
        """Serve `version`."""
        self._version = version

    def routes(self) -> list[Route]:
        """Return every path, with and without the version in it."""
        model_paths = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        fixed = [
            Route("/v2", self.server, methods=["GET"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
        ]
        return fixed + [
            route
            for path in model_paths
            for route in (
                Route(path, self.model, methods=["GET"]),
                Route(f"{path}/ready", self.model_ready, methods=["GET"]),
                Route(f"{path}/infer", self.infer, methods=["POST"]),
            )
        ]

    async def server(self, _request: Request) -> Response:
        """Server metadata."""
        return _json(SERVER)

    async def live(self, _request: Request) -> Response:
        """The process answers."""
        return _json({"live": True})

    async def ready(self, _request: Request) -> Response:
        """The model is fitted; it was before the socket answered."""
        return _json({"ready": True})

    async def model(self, request: Request) -> Response:
        """Model metadata: the tensors in and out."""
        self._require_known(request)
        return _json(
            {
                "name": MODEL,
                "versions": [self._version.name],
                "platform": f"scikit-learn_{self._version.recipe.kind}",
                "inputs": [{"name": name, "datatype": "FP64", "shape": [-1]} for name in FEATURES],
                "outputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in OUTPUTS.items()],
                "parameters": {"digest": self._version.digest},
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """This model and version can be called."""
        self._require_known(request)
        return _json({"name": MODEL, "ready": True})

    async def infer(self, request: Request) -> Response:
        """Classify the rows of the request."""
        self._require_known(request)
        if "inference-header-content-length" in request.headers:
            raise HTTPException(400, "binary tensors are not spoken here; send the tensors' `data` as JSON")
        media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise HTTPException(415, f"content type `{media_type}` is not `application/json`")
        try:
            parsed = parse_request(await _body(request), FEATURES)
        except BadTensors as error:
            raise HTTPException(400, str(error)) from error
        features = np.column_stack([parsed.columns[name] for name in FEATURES])
        predictions, scores = self._version.predict(features)
        reply = render_reply(MODEL, self._version.name, parsed, predictions.tolist(), scores.tolist())
        return Response(reply, media_type="application/json")

    def _require_known(self, request: Request) -> None:
        model, version = request.path_params["model"], request.path_params.get("version", self._version.name)
        if model != MODEL:
            raise HTTPException(404, f"unknown model `{model}`; this server has `{MODEL}`")
        if version != self._version.name:
            raise HTTPException(404, f"unknown version `{version}`; this server has `{self._version.name}`")


def application(version: TrainedVersion) -> Starlette:
    """Return the ASGI application that serves `version`."""
    return Starlette(routes=ModelEndpoints(version).routes(), exception_handlers={HTTPException: _v2_error})


def _json(document: Any, status: int = 200) -> Response:
    return Response(json.dumps(document, separators=(",", ":")), status, media_type="application/json")


async def _v2_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for this class alone
    response = _json({"error": error.detail}, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _body(request: Request) -> bytes:
    """Read the body, giving up as soon as it is longer than the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT_BYTES:
            raise HTTPException(413, f"the body is longer than {BODY_LIMIT_BYTES} bytes")
    return bytes(body)


def _bound_socket(arguments: argparse.Namespace) -> socket.socket:
    if arguments.fd is not None:
        return socket.socket(fileno=arguments.fd)
    return socket.create_server((arguments.host, arguments.port), backlog=128)


def main() -> None:
    """Bind, train, announce, serve until told to stop."""
    parser = argparse.ArgumentParser(description="Serve one example model version over the Open Inference Protocol v2.")
    parser.add_argument("--version", required=True, choices=sorted(RECIPES))
    parser.add_argument("--host", default="127.0.0.1")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--port", type=int, default=0, help="0 picks a free port")
    where.add_argument("--fd", type=int, help="an inherited, listening socket instead of host and port")
    arguments = parser.parse_args()

    listener = _bound_socket(arguments)
    host, port = listener.getsockname()[:2]
    version = train(arguments.version)
    config = uvicorn.Config(application(version), log_level="warning", access_log=False, timeout_graceful_shutdown=STOP_TIMEOUT_S)
    announcement = {
        "ready": True,
        "url": f"http://{host}:{port}",
        "model": MODEL,
        "version": version.name,
        "digest": version.digest,
        "accuracy": round(version.accuracy, 6),
        "held_out_rows": version.held_out_rows,
    }
    # Connections made from here on wait in the listener's backlog until the loop runs, an instant later.
    print(json.dumps(announcement, sort_keys=True), flush=True)
    # uvicorn raises the signal again once it has drained; without this the exit status would say "killed".
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
