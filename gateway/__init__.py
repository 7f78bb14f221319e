"""The gateway: composes policies, experiments and audit around a call. `docs/architecture.md` is the map."""
