"""A real OPA server as a second engine for the same policies.

In reading order:
- `query.py`: the one module OPA is asked through, and what its answers mean; pure;
- `breaker.py`: when a server that fails is left alone; pure;
- `server.py`: where one is;
- `client.py`: `opa-python-client` without its retries and redirects; needs the extra `opa`;
- `connection.py`: one server: requests in flight, deadline, breaker;
- `servers.py`: several that have the same policies;
- `archive.py`, `publish.py`: our bundle as OPA's archive, and put into a running server and read back.

The engine over them, a document in and a `Verdict` out whatever a server does, is `policies/engine.py`.
"""
