"""Where each file of a data directory lies. Paths and nothing else; `docs/architecture.md` has the picture."""

from __future__ import annotations

from pathlib import Path

RANGE_LEAVES = 65_536
"""Leaves in one range file: one full hash tile of level 1."""


def ranges_dir(data_dir: Path) -> Path:
    """Return the folder of range files."""
    return data_dir / "ranges"


def range_path(data_dir: Path, number: int) -> Path:
    """Return the file of leaves `number * 65536` and following."""
    return data_dir / "ranges" / f"{number:08d}.sqlite"


def range_numbers(data_dir: Path) -> list[int]:
    """Return the numbers of the range files present, ascending."""
    return sorted(int(path.stem) for path in ranges_dir(data_dir).glob("[0-9]" * 8 + ".sqlite"))


def recorder_lock_path(data_dir: Path) -> Path:
    """Return the file the one recorder locks. Beside the leaves, so that it guards them under whatever path they are mounted."""
    return data_dir / "ranges" / "lock"


def place_path(data_dir: Path) -> Path:
    """Return the file that names the database of the leaves, where they are not in range files."""
    return data_dir / "store.json"


def instance_path(data_dir: Path) -> Path:
    """Return the file with the directory's own random name."""
    return data_dir / "instance"


def backup_path(data_dir: Path) -> Path:
    """Return the file that says that a directory is a backup; the log itself has none."""
    return data_dir / "backup.json"


def control_path(data_dir: Path) -> Path:
    """Return the controller's database."""
    return data_dir / "control.sqlite"


def controller_lock_path(data_dir: Path) -> Path:
    """Return the file the leading controller locks."""
    return data_dir / "control.lock"


def log_dir(data_dir: Path) -> Path:
    """Return the folder that holds the public log: `checkpoint` and `tile/`."""
    return data_dir / "log"


def checkpoint_path(data_dir: Path) -> Path:
    """Return the newest published checkpoint."""
    return data_dir / "log" / "checkpoint"


def entries_dir(data_dir: Path) -> Path:
    """Return the folder of entry files, which hold the leaves of sealed ranges."""
    return data_dir / "log" / "tile" / "entries"


def run_dir(data_dir: Path) -> Path:
    """Return the folder of sockets, status files and high-water marks."""
    return data_dir / "run"


def vault_path(data_dir: Path) -> Path:
    """Return the vault's database, where the log is not in PostgreSQL."""
    return data_dir / "vault" / "vault.sqlite"
