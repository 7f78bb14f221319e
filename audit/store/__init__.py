"""The log's store: leaves in range files, signed sizes and terms in the control file.

- `place.py` where the leaves of a data directory lie: in its files, or in a shared database
- `staging.py` what every leaf store does before it commits; `opening.py` opens the one there is
- `errors.py` what can go wrong, sorted by what the operator has to do
- `layout.py` where each file of a data directory lies
- `tables.py` the tables as SQLModel classes: what is stored
- `migrate.py` brings a file to the newest schema (`migrations/`)
- `sqlite.py` how connections are opened, and which SQLite error means what
- `ranges.py` one range file: 65,536 leaves
- `leaves.py` the whole log across range files, for the recorder alone
- `control.py` checkpoints, terms and bundles, for the controller alone; `sqlite_control.py` keeps them in a file
- `postgres.py`, `postgres_leaves.py`, `postgres_control.py`, `postgres_rows.py` the same in a PostgreSQL database that several gateways share
"""
