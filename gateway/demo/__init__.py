"""`assay demo`: the whole product on this machine, with real models and real traffic, in a folder of its own.

- `stage.py` builds the deployment and runs the processes, with the commands anyone would use
- `story.py` what happens on it, and what is said about it

No outcome is scripted: the story prints what the gateway reports. With the versions swapped the canary rolls back because the evidence says so.
"""
