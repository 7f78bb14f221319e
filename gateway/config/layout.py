"""Where the files of one deployment lie. The only module that knows the names of the folders.

```
DIR/                     the deployment; `file:` references and the store are relative to it
  config/                what is reloaded while running
    gateway.yaml  models/*.yaml  experiments/*.yaml  policies/*.rego, modes.yaml
  trust/root.json        people, keys, roles, thresholds: pinned at start, never reloaded
  keys/                  secrets, mode 0600
  approvals/             inbox of signed approvals and revocations
  data/                  log and state
```

Example:
    layout = Layout.of(Path("."))      # the deployment, or its config folder: both are understood
    layout.config / "gateway.yaml"
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


class NoConfiguration(Exception):  # noqa: N818 - reads as the statement it is
    """There is no configuration where one was looked for."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders of one deployment. All absolute."""

    root: Path
    config: Path

    @classmethod
    def of(cls, directory: Path) -> Layout:
        """Return the layout of a deployment, named by its folder or by the `config` folder in it.

        Raises:
            NoConfiguration: neither holds a `gateway.yaml`.
        """
        directory = directory.absolute()
        if (directory / "config" / "gateway.yaml").is_file():
            return cls(directory, directory / "config")
        if (directory / "gateway.yaml").is_file():
            return cls(directory.parent, directory)
        raise NoConfiguration(f"no `gateway.yaml` in `{directory}` or `{directory / 'config'}`")

    @property
    def trust_root(self) -> Path:
        """Return where the trust root is."""
        return self.root / "trust" / "root.json"

    @property
    def keys(self) -> Path:
        """Return the folder of secrets."""
        return self.root / "keys"

    @property
    def approvals(self) -> Path:
        """Return the inbox of approvals."""
        return self.root / "approvals"

    def resolve(self, path: str) -> Path:
        """Return a path written in `gateway.yaml` as an absolute one."""
        return self.root / path


def write_durably(path: Path, data: bytes, *, mode: int = 0o644, replace: bool = False) -> None:
    """Write a file so that a reader, or a crash, sees all of it or nothing.

    Args:
        path: where; its folder is made when missing.
        data: the content.
        mode: permission bits, in force before the first byte is written.
        replace: whether a file that is there may be replaced.

    Raises:
        FileExistsError: the file is there and `replace` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # unlike rename, this refuses to overwrite
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
