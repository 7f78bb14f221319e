"""The native transport: asyncio protocols on uvloop, llhttp (httptools) on both sides.

- `drive.py` runs the lane's coroutine straight from protocol callbacks, without a task.
- `sweep.py` is the worker's one timer: everything with a deadline looks at the clock there.
- `front.py` listens and owns the callers' connections; `caller.py` is one of them: requests in, replies out.
- `upstream.py` is the pooled client; `connection.py` is one of its connections: a request out, a reply in.
"""
