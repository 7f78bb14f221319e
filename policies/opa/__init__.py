"""A real OPA server as a second engine for the same policies.

In reading order:
- `query.py`: the one module OPA is asked through, and what its answers mean; pure;
- `breaker.py`: when a server that fails is left alone; pure;
- `client.py`: `opa-python-client` without its retries and redirects; needs the extra `opa`;
- `connection.py`: one server: requests in flight, deadline, breaker;
- `engine.py`: the engine: a document in, a `Verdict` out, whatever the server does;
- `archive.py`, `publish.py`: our bundle as OPA's archive, and put into a running server and read back.
"""
