"""The `assay` command. One module per command group; `main.py` puts them together; `terminal.py` holds what all of them print by."""
