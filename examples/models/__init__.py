"""Two versions of one model, `tumour-triage`, and the server that makes them callable.

- `train.py`: data, split, recipes, fitting, digest.
- `tensors.py`: the v2 JSON tensors, strictly checked, as pure functions.
- `serve.py`: HTTP around both.
"""
