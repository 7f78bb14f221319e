"""Errors of the log's store, sorted by what has to be done about them."""

from __future__ import annotations


class StoreError(Exception):
    """Base of all errors of the store."""


class StoreFull(StoreError):  # noqa: N818 - reads as the state it is
    """The disk is full. Nothing of the transaction was stored; the same append succeeds once there is space."""


class StoreBroken(StoreError):  # noqa: N818 - reads as the state it is
    """A write or flush failed. What is on disk is unknown to this process: it must end, and the next one reads what is there."""


class StoreInUse(StoreError):  # noqa: N818 - reads as the state it is
    """Another living process holds the store."""


class LedElsewhere(StoreInUse):
    """A controller on another node of a shared log leads. It may be waited for."""


class StoreDamaged(StoreError):  # noqa: N818 - reads as the state it is
    """Files of the store are missing or contradict each other. Nothing is appended or signed until an operator decides."""


class StoreBehind(StoreDamaged):
    """The store holds fewer leaves than a checkpoint has already signed: leaves were lost, or an older copy was restored."""

    def __init__(self, where: str, leaves: int, signed_size: int) -> None:
        """Say how far behind; `where` names the file with the larger number."""
        super().__init__(
            f"the log has `{leaves}` leaves but `{where}` signed a size of `{signed_size}`: leaves are missing or an older copy was restored\n"
            "hint: going on would sign a second history under one key. Put back the newest copy of `ranges/`; if it is lost for good, "
            "keep this directory as evidence and open a log under a new origin"
        )
        self.leaves = leaves
        self.signed_size = signed_size


class SchemaError(StoreError):
    """A file has a schema this version cannot work with."""


class TermLost(StoreError):  # noqa: N818 - reads as the state it is
    """Another controller has taken over: this one must stop signing and end."""


class CheckpointRefused(StoreError):  # noqa: N818 - reads as the state it is
    """A checkpoint row that does not grow the log was refused."""


class SequenceGap(StoreError):  # noqa: N818 - reads as the state it is
    """A writer skipped sequence numbers."""


class RetryMismatch(StoreError):  # noqa: N818 - reads as the state it is
    """A writer sent other bytes under a number that is already committed, or one whose leaf can no longer be compared."""


class WriterEnded(StoreError):  # noqa: N818 - reads as the state it is
    """The writer's epoch has been stated as ended, or a newer epoch of its name is known."""
