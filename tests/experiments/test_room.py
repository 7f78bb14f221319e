"""Every new experiment gets slots that nobody has, or is told who has them."""

import pytest
from experiment_documents import document_of, layer_of
from hypothesis import given
from hypothesis import strategies as st

from experiments.room import NoRoomError, Room, room_for


def rival(first, last):
    return document_of({"a": 1, "b": 1}, layer=layer_of(first, last))


MODEL = rival(0, 1).model


def test_an_experiment_that_has_the_model_for_itself_needs_no_slots():
    assert room_for(MODEL, "canary", []) is None
    assert room_for("another", "canary", [rival(0, 999)]) is None
    assert room_for(MODEL, "shadow", [rival(0, 999)]) is None, "a shadow splits nothing"


def test_it_gets_half_of_the_widest_gap_so_that_the_next_one_finds_something_too():
    assert room_for(MODEL, "ab", [rival(300, 399), rival(0, 199)]) == Room("pricing", 400, 699, ((200, 299), (700, 999)))


def test_who_has_what_is_told_where_nothing_is_left():
    with pytest.raises(NoRoomError, match=r"`pricing` has no free slots.* 0-999"):
        room_for(MODEL, "ab", [rival(0, 999)])
    with pytest.raises(NoRoomError, match="for itself"):
        room_for(MODEL, "ab", [document_of({"a": 1, "b": 1})])


@given(st.lists(st.integers(0, 19), unique=True, max_size=20))
def test_slots_that_are_given_are_nobodys_until_there_are_none(owned):
    others = [document_of({"a": 1, "b": 1}, layer=layer_of(slot, slot, slots=20)) for slot in owned]
    taken = set(owned)
    while others:
        try:
            room = room_for(MODEL, "canary", others)
        except NoRoomError:
            assert len(taken) == 20
            break
        mine = set(range(room.first, room.last + 1))
        free = {slot for first, last in room.free for slot in range(first, last + 1)}
        assert mine
        assert not mine & taken
        assert free == set(range(20)) - taken - mine
        taken |= mine
        others.append(document_of({"a": 1, "b": 1}, layer=layer_of(room.first, room.last, slots=20)))
