"""Which stamps are taken, and when a source that went back is believed."""

from __future__ import annotations

from diffpose_edge.runtime.bridges.stamp_order import StampOrder


def taken(order: StampOrder, stamps: list[int]) -> list[int]:
    return [stamp for stamp in stamps if order.takes(stamp)[0]]


def test_late_and_equal_stamps_are_left_out_and_the_rest_is_not() -> None:
    assert taken(StampOrder(), [5, 6, 6, 4, 7, 1, 8]) == [5, 6, 7, 8]


def test_a_time_line_that_began_anew_is_believed_after_a_few_in_order() -> None:
    order = StampOrder(anew_after=3)
    assert order.takes(100) == (True, False)
    assert [order.takes(stamp) for stamp in (1, 2, 3, 4)] == [(False, False), (False, False), (True, True), (True, False)]


def test_late_messages_in_disorder_do_not_begin_it_anew() -> None:
    order = StampOrder(anew_after=3)
    assert taken(order, [100, 3, 2, 1, 3, 2, 1]) == [100]
    assert taken(order, [1, 50, 101]) == [101]


def test_one_stamp_from_the_future_does_not_silence_a_source() -> None:
    assert taken(StampOrder(anew_after=3), [1, 10**18, 2, 3, 4, 5]) == [1, 10**18, 4, 5]
