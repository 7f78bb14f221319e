"""May this call go, and why.

In reading order:
- `dsse.py`: signed envelopes, one spelling, one signature;
- `trust.py`: people, their keys and roles, and how many must agree: the trust root;
- `approvals.py`: statements by which people put a version in force or take it out, and the structure that answers in under a microsecond;
- `verdict.py`: from what policy packages say to one verdict; `bundle.py`: the packages in force; `rego/`: the engine; `default/`: what is shipped;
- `engine.py`: which engine answers, behind one interface; `opa/`: a real OPA server as the second one.
"""
