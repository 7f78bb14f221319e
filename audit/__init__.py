"""What happened, provably: a transparency log that anyone can check without trusting us.

In reading order:

- `canonical` RFC 8785 bytes; `leaf` the profile of it that records are written in.
- `keys` Ed25519 keys; `note` signed notes, checkpoints, cosignatures.
- `merkle` the tree of RFC 6962 and its proofs; `tiles` the files it is published in.
- `source` where a log is read from; `verify` checks a whole log and says what it found; `proof` proves one leaf.
- `witness` cosigns the heads of logs it has seen grow.
"""
