"""The controller's work: everything slow, beside the calls.

- `clerk.py` writes the controller's own records and waits until they are committed
- `registry.py` what the log says is in force beside the configuration (approvals, rollouts), folded from records
- `configuration.py` reads the folder, compiles, puts in force
- `inbox.py` takes signed approvals and revocations in
- `rollouts.py` judges running experiments and moves them
- `tail.py` reads what was committed: tree, index, evidence
"""
