"""The portable transport: the same handler as an ASGI application, models called with httpx.

For any ASGI server (HTTP/2, Windows, a platform's own runner) and for upstreams behind an egress proxy. It costs many times the native one's
CPU; what callers and models see is the same, and `tests/transports/test_differential.py` holds the two together.

- `app.py` is `Exchange` on ASGI.
- `upstream.py` is `Upstream` on httpx.
"""
