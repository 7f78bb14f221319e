"""The vault: what was captured of calls, and the salts of their commitments, kept apart from the log so that it can disappear.

- `crypto`: a key per subject, wrapped by the vault's master key; entries sealed under it. Pure.
- `entry`: what is kept of one call, as a worker sends it, and its commitment.
- `store`: the tables, in a SQLite file of their own or in the log's PostgreSQL; keep, read, erase, expire.
- `tombstones`: what was erased, remembered where a restored copy of the vault cannot undo it.
- `keeper`: the process that takes entries from workers and acknowledges them once they are committed.

The log holds digests of what is here and never the thing itself; whatever is destroyed here, every proof of the log still verifies.
"""
