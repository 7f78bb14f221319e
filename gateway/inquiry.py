"""What belongs to one record: the records that a person who looks at it is shown beside it. Pure but for the way of asking, which is an argument.

Example:
    rows = related_rows(ask, record, idx)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from audit.query import Page, Query, Row

Ask = Callable[[Query, int, str | None], Page]
"""(question, limit, cursor) -> page."""
MOST_RELATED: Final = 1000


def index_of(ask: Ask, record_id: str) -> int | None:
    """Return the leaf of a decision or record id, or of `#` and an index; None when there is none."""
    if record_id.startswith("#") and record_id[1:].isdecimal():
        return int(record_id[1:])
    for wanted in (Query(decision=record_id, oldest_first=True), Query(id=record_id, oldest_first=True)):
        rows = ask(wanted, 1, None).rows
        if rows:
            return rows[0].idx
    return None


def related_rows(ask: Ask, record: dict[str, Any], idx: int) -> list[Row]:
    """Return outcome and feedback of the decision, its approvals, and the start of its experiment before it; in index order."""
    found: dict[int, Row] = {}
    decision = record.get("id") if record.get("type") in {"call", "decision"} else record.get("decision")
    if isinstance(decision, str):
        found |= {row.idx: row for row in ask(Query(decision=decision, oldest_first=True), MOST_RELATED, None).rows}
    model, approval = record.get("model"), record.get("approval")
    if isinstance(model, dict) and approval:
        granted = Query(type="approval.granted", model=model.get("name"), version=model.get("version"))
        found |= {row.idx: row for row in ask(granted, MOST_RELATED, None).rows}
    route = record.get("route")
    if isinstance(route, dict) and route.get("experiment"):
        starts = ask(Query(type="experiment.start", experiment=route["experiment"]), MOST_RELATED, None).rows
        found |= {row.idx: row for row in [row for row in starts if row.idx < idx][:1]}
    found.pop(idx, None)
    return [found[index] for index in sorted(found)]
