"""A power cut, replayed: what a program wrote, call by call, and every state the disk could be left in.

`record` runs a program under strace and keeps its writes below one folder. `Disk` then plays them back up to any call and builds what a power cut
at that moment may leave:

- *all*: everything written is there (a kill, or a disk that kept its cache);
- *synced*: only what was flushed is there: bytes of a file up to its last fsync, names up to the last fsync of their folder;
- *some*: what was flushed, and an arbitrary part of the rest: some writes, some of them torn at a sector, some names.

SQLite's `-shm` files are left out: they are memory, made again by the first who opens.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
CALLS = "openat,close,write,pwrite64,lseek,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat"
_LINE = re.compile(r"^(?:\d+\s+)?(\w+)\((.*)\)\s+=\s+(-?\d+)")
_ARGUMENT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(?:\.\.\.)?|([^,\s][^,]*)')


@dataclass(slots=True)
class Inode:
    """One file's identity: renamed, it stays the same."""

    number: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that changed the disk, or a note the program wrote of what it had been promised."""

    kind: str
    """write, truncate, sync, name, unname, sync folder, note"""
    inode: int = -1
    path: str = ""
    offset: int = 0
    data: bytes = b""


def record(program: str, arguments: Sequence[str], root: Path, notes: Path) -> list[Operation]:
    """Run Python code under strace; return what it did below `root`, with the lines it wrote to `notes` in between."""
    trace = notes.with_suffix(".strace")
    command = ["strace", "-f", "-qq", "-xx", "-s", "4000000", "-e", f"trace={CALLS}", "-o", str(trace), sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stderr[-4000:]
    with trace.open() as lines:
        return list(_parse(lines, str(root), str(notes)))


def _parse(lines: Iterator[str], root: str, notes: str) -> Iterator[Operation]:  # noqa: C901 - one case for each system call
    open_files: dict[int, list] = {}  # descriptor -> [inode or None, path, position]
    names: dict[str, int] = {}
    folders: set[str] = set()  # a folder that the program has removed again is known by the names that were in it
    fresh = iter(range(1, 1 << 30))
    for line in lines:
        found = _LINE.match(line)
        if found is None or int(found[3]) < 0:
            continue
        call, result = found[1], int(found[3])
        parts = [bytes.fromhex(quoted.replace("\\x", "")) if quoted or not bare else bare for quoted, bare in _ARGUMENT.findall(found[2])]
        if call == "openat":
            path = _below(parts[0], parts[1], open_files)
            if path == notes:
                open_files[result] = ["notes", path, 0]
            elif path.startswith(root) and not path.endswith("-shm"):
                is_folder = "O_DIRECTORY" in parts[2] or path in folders or Path(path).is_dir()
                if not is_folder and path not in names:
                    names[path] = next(fresh)
                    folders.add(str(Path(path).parent))
                    yield Operation("name", names[path], path)
                open_files[result] = ["folder" if is_folder else names[path], path, 0]
                if "O_TRUNC" in parts[2] and not is_folder:
                    yield Operation("truncate", names[path])
        elif call in {"rename", "renameat", "renameat2"}:
            source, target = (os.path.normpath(part.decode()) for part in parts if isinstance(part, bytes))
            if source.startswith(root):
                names[target] = names.pop(source)
                yield Operation("name", names[target], target)
                yield Operation("unname", names[target], source)
        elif call in {"unlink", "unlinkat"}:
            path = _below(*(parts if call == "unlinkat" else ["AT_FDCWD", *parts])[:2], open_files)
            if path in names:
                yield Operation("unname", names.pop(path), path)
        elif int(parts[0]) in open_files:
            yield from _on_descriptor(call, parts, result, open_files, notes)


def _below(folder: str, name: bytes, open_files: dict[int, list]) -> str:
    """Return the path of a name that a call gives below an open folder."""
    base = open_files[int(folder)][1] if folder.isdecimal() and int(folder) in open_files else ""
    return os.path.normpath(os.path.join(base, name.decode()))  # noqa: PTH118 - an absolute name replaces the base


def _on_descriptor(call: str, parts: list, result: int, open_files: dict[int, list], notes: str) -> Iterator[Operation]:
    entry = open_files[int(parts[0])]
    inode, path, position = entry
    if call == "close":
        del open_files[int(parts[0])]
    elif inode == "notes":
        if call == "write":
            yield Operation("note", path=notes, data=parts[1])
    elif call in {"fsync", "fdatasync"}:
        yield Operation("sync folder", path=path) if inode == "folder" else Operation("sync", inode)
    elif call == "lseek":
        entry[2] = result
    elif call == "ftruncate":
        yield Operation("truncate", inode, offset=int(parts[1]))
    elif call == "pwrite64":
        yield Operation("write", inode, offset=int(parts[3]), data=parts[1][:result])
    elif call == "write":
        yield Operation("write", inode, offset=position, data=parts[1][:result])
        entry[2] = position + result


@dataclass(slots=True)
class Disk:
    """What is on the disk after some operations, and what of it is safe. Owned by its test, moved forward by `apply`."""

    root: Path
    contents: dict[int, bytearray] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    safe_contents: dict[int, bytes] = field(default_factory=dict)
    safe_names: dict[str, int] = field(default_factory=dict)
    unsafe: dict[int, list[Operation]] = field(default_factory=dict)
    """Writes and truncations of each file since its last flush."""
    notes: list[str] = field(default_factory=list)

    def apply(self, one: Operation) -> None:  # noqa: C901 - one case for each kind
        if one.kind == "note":
            self.notes += one.data.decode().split("\n")[:-1]
        elif one.kind in {"write", "truncate"}:
            _change(self.contents.setdefault(one.inode, bytearray()), one)
            self.unsafe.setdefault(one.inode, []).append(one)
        elif one.kind == "sync":
            self.safe_contents[one.inode] = bytes(self.contents.get(one.inode, b""))
            self.unsafe.pop(one.inode, None)
        elif one.kind == "name":
            self.names[one.path] = one.inode
        elif one.kind == "unname":
            if self.names.get(one.path) == one.inode:
                del self.names[one.path]
        elif one.kind == "sync folder":
            for path in {*self.names, *self.safe_names}:
                if str(Path(path).parent) == one.path:
                    if path in self.names:
                        self.safe_names[path] = self.names[path]
                    else:
                        del self.safe_names[path]

    def leave(self, folder: Path, how: str, draw: random.Random) -> None:
        """Write into `folder` what a power cut now leaves."""
        names = dict(self.names if how == "all" else self.safe_names)
        if how == "some":
            for path in {*self.names, *self.safe_names}:
                if draw.random() < 0.5:
                    names.pop(path, None)
                    if path in self.names:
                        names[path] = self.names[path]
        for path, inode in names.items():
            target = folder / Path(path).relative_to(self.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._content(inode, how, draw))

    def _content(self, inode: int, how: str, draw: random.Random) -> bytes:
        if how == "all":
            return bytes(self.contents.get(inode, b""))
        content = bytearray(self.safe_contents.get(inode, b""))
        if how == "some":
            for one in self.unsafe.get(inode, []):
                if one.kind == "write" and draw.random() < 0.3:
                    cut = draw.randrange(0, len(one.data) // SECTOR + 1) * SECTOR
                    _change(content, Operation("write", inode, offset=one.offset, data=one.data[:cut]))
                elif draw.random() < 0.6:
                    _change(content, one)
        return bytes(content)


def _change(content: bytearray, one: Operation) -> None:
    if one.kind == "truncate":
        del content[one.offset :]
        content.extend(bytes(one.offset - len(content)))
    elif one.data:
        content.extend(bytes(max(0, one.offset - len(content))))
        content[one.offset : one.offset + len(one.data)] = one.data
