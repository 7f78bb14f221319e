"""What happened, provably: a transparency log that anyone can check without trusting us.

In reading order:

- `canonical` RFC 8785 bytes; `leaf` the profile of it that records are written in; `statements` the log's own records.
- `keys` Ed25519 keys; `note` signed notes, checkpoints, cosignatures.
- `merkle` the tree of RFC 6962 and its proofs; `tiles` the files it is published in.
- `wire`, `highwater`, `recorder`, `store` how a record becomes durable; `follow`, `publisher` how it becomes public.
- `source` where a log is read from; `verify` checks a whole log, `sequences` what a tree cannot show, `verdict` what was found; `proof` one leaf.
- `witness` cosigns the heads of logs it has seen grow.
- `entry`, `query`, `index`, `explain` reading records; `evaluation`, `maturity`, `reports` what is made of them.
"""
