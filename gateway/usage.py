"""What a call consumed: tokens read from the model's reply, and what they cost by the version's prices. Pure.

A model's file says where its replies count tokens (`capture.usage`) and what a call costs (`cost`, or a version's own). Rules:

- All or nothing: where one declared count is missing or is no whole number from 0 to 10^9, neither tokens nor cost are recorded, but `unread: 1`.
  Half a sum would look like a cheap call. It never fails a call.
- A list of counts (an output tensor with one number a row) is summed; at most `MOST_ITEMS` are.
- Money is in whole billionths of the currency (`nano`), rounded half up once a call: a token at 0.15 a million is 150 of them.
- Only replies with status 200 are read and cost anything; a reply that breaks off is unread.
- A streamed reply is passed on as it comes; its last `TAIL_BYTES` are kept beside. Of server-sent events the newest `MOST_EVENTS` are looked through
  from the end for one that has all counts; a document longer than the tail is unread.

Example:
    >>> meter = Meter.of(capture, currency="EUR")
    >>> meter.of_body(b'{"usage": {"prompt_tokens": 12, "completion_tokens": 30}}', price)
    {'input_tokens': 12, 'output_tokens': 30, 'cost_nano': 51000, 'currency': 'EUR'}
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.documents import CaptureDocument, PriceDocument
from gateway.exchange import Headers
from gateway.facts import media_type
from gateway.protocols.pointer import MISSING, compile_pointer
from gateway.protocols.strictjson import JsonError, parse

MOST_TOKENS: Final = 10**9
MOST_ITEMS: Final = 10_000
MOST_NANO: Final = (1 << 53) - 1
"""Largest integer of a leaf: nine million of the currency."""
TAIL_BYTES: Final = 256 * 1024
MOST_EVENTS: Final = 64
Metered = dict[str, Any]
"""What goes into a record's `usage`: integers, and the currency."""


def count_of(value: Any) -> int | None:
    """Return a count of tokens, or the sum of a list of them; None for what is neither."""
    if type(value) is list:
        if not 0 < len(value) <= MOST_ITEMS:
            return None
        counts = [_whole(one) for one in value]
        total = sum(one for one in counts if one is not None)
        return None if None in counts or total > MOST_TOKENS else total
    return _whole(value)


def cost_nano(price: PriceDocument, tokens: Mapping[str, int]) -> int | None:
    """Return what a call costs in billionths of the currency; None where that is more than a record can say."""
    by_tokens = tokens.get("input_tokens", 0) * price.per_1000_input_tokens_nano + tokens.get("output_tokens", 0) * price.per_1000_output_tokens_nano
    found = price.per_call_nano + (by_tokens + 500) // 1000
    return found if found <= MOST_NANO else None


class Tail:
    """The last bytes of a streamed reply. Owned by the call that streams."""

    __slots__ = ("_chunks", "_is_events", "_length", "is_cut")

    def __init__(self, headers: Headers) -> None:
        """Begin with nothing; `headers` say whether it is a stream of events."""
        self._chunks: deque[bytes] = deque()
        self._length = 0
        self._is_events = media_type(dict(headers).get(b"content-type")) == "text/event-stream"
        self.is_cut = False

    def add(self, chunk: bytes) -> None:
        """Take a piece in, and drop what is too long ago."""
        self._chunks.append(chunk)
        self._length += len(chunk)
        while self._length > TAIL_BYTES:
            first = self._chunks.popleft()
            kept = first[self._length - TAIL_BYTES :]
            self._length -= len(first) - len(kept)
            self.is_cut = True
            if kept:
                self._chunks.appendleft(kept)

    def documents(self) -> Iterator[Any]:
        """Give the JSON documents in it, the newest first; what is none is passed over."""
        body = b"".join(self._chunks)
        if self._is_events:
            lines = [line for line in body.splitlines() if line.startswith(b"data:")]
            texts = [line[len(b"data:") :].strip() for line in lines[: -MOST_EVENTS - 1 : -1]]
        else:
            texts = [] if self.is_cut else [body]
        for text in texts:
            try:
                yield parse(text)
            except JsonError:
                continue


@dataclass(frozen=True, slots=True)
class Meter:
    """How the replies of one model are metered."""

    places: tuple[tuple[str, Callable[[Any], Any]], ...]
    """(name in the record, what gives it of a reply); empty where calls have a price and no tokens are counted."""
    currency: str

    @classmethod
    def of(cls, capture: CaptureDocument, currency: str) -> Meter | None:
        """Compile what a model's file says; None where it says nothing."""
        named = {"input_tokens": capture.input_tokens, "output_tokens": capture.output_tokens}
        places = tuple((name, compile_pointer(pointer)) for name, pointer in named.items() if pointer is not None)
        return cls(places, currency) if places or currency else None

    def of_document(self, document: Any, price: PriceDocument | None) -> Metered:
        """Meter a reply that has been parsed."""
        tokens = {}
        for name, place in self.places:
            value = place(document)
            count = None if value is MISSING else count_of(value)
            if count is None:
                return unread()
            tokens[name] = count
        return self._priced(tokens, price)

    def of_body(self, body: bytes, price: PriceDocument | None) -> Metered:
        """Meter a reply; it is parsed only where tokens are counted."""
        if not self.places:
            return self._priced({}, price)
        try:
            return self.of_document(parse(body), price)
        except JsonError:
            return unread()

    def of_tail(self, tail: Tail, price: PriceDocument | None) -> Metered:
        """Meter a reply that was streamed to its end."""
        if not self.places:
            return self._priced({}, price)
        for document in tail.documents():
            found = self.of_document(document, price)
            if "unread" not in found:
                return found
        return unread()

    def _priced(self, tokens: dict[str, int], price: PriceDocument | None) -> Metered:
        if price is None:
            return dict(tokens)
        cost = cost_nano(price, tokens)
        return unread() if cost is None else {**tokens, "cost_nano": cost, "currency": self.currency}


def unread() -> Metered:
    """Return what a record says where the reply did not tell what it was to tell."""
    return {"unread": 1}


def _whole(value: Any) -> int | None:
    """A count as JSON may write it: `12`, or `12.0` in a tensor of floats."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None
