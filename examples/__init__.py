"""A small world to try Assay in: two real model versions, a server for them, and callers.

- `models/train.py` trains two scikit-learn versions on a data set that ships inside scikit-learn.
- `models/serve.py` serves one version over the Open Inference Protocol v2, one process per version.
- `traffic.py` sends held-out rows through a gateway and later reports what turned out to be true.

Nothing here is part of the gateway, and nothing of the gateway is imported: the example stands where your own services stand.
"""
