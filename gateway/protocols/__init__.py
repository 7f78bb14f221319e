"""What callers speak: Open Inference Protocol v2 (`v2.py`) and any HTTP (`http.py`).

A protocol knows paths, how to read a call from a request (rows, inputs), how to read a prediction from a reply, and the error shape its
clients understand. `contract.py` checks inputs against a model's schema, `strictjson.py` and `pointer.py` read JSON.
"""
