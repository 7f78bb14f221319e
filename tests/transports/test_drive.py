import asyncio

import pytest
import uvloop

from gateway.native.drive import Drive, Trampoline, Wait


class Owner:
    def __init__(self) -> None:
        self.ends = []

    def __call__(self, error) -> None:
        self.ends.append(error)


def drive(coroutine, trampoline=None):
    owner = Owner()
    driven = Drive(coroutine, trampoline or Trampoline(), owner)
    driven.start()
    return driven, owner.ends


def test_a_wait_resumes_its_coroutine_before_give_returns():
    wait, seen = Wait(), []

    async def run():
        seen.append(await wait)

    _, ends = drive(run())
    assert seen == []
    wait.give(7)
    assert (seen, ends) == ([7], [None])


def test_a_wait_given_before_it_is_awaited_does_not_park():
    wait = Wait()
    wait.give(1)

    async def run():
        assert await wait == 1

    assert drive(run())[1] == [None]


def test_a_wait_takes_the_first_answer_only():
    wait, seen = Wait(), []
    wait.give(1)
    wait.give(2)
    wait.fail(ValueError())

    async def run():
        seen.append(await wait)

    drive(run())
    assert seen == [1]


def test_failure_is_raised_at_the_await_and_ends_the_coroutine():
    wait, error = Wait(), ValueError("x")

    async def run():
        await wait

    _, ends = drive(run())
    wait.fail(error)
    assert ends == [error]


def test_throw_cancels_at_the_await_and_the_late_value_does_nothing():
    wait, seen = Wait(), []

    async def run():
        try:
            await wait
        except KeyError:
            seen.append("thrown")

    driven, ends = drive(run())
    driven.throw(KeyError())
    wait.give(1)
    driven.throw(KeyError())
    assert (seen, ends) == (["thrown"], [None])


def test_a_coroutine_may_await_again_after_it_was_thrown_at():
    first, second = Wait(), Wait()

    async def run():
        try:
            await first
        except KeyError:
            assert await second == 2

    driven, ends = drive(run())
    driven.throw(KeyError())
    assert ends == []
    second.give(2)
    assert ends == [None]


def test_a_wake_up_from_inside_another_coroutine_waits_for_its_turn():
    trampoline, wait, order = Trampoline(), Wait(), []

    async def waiter():
        await wait
        order.append("waiter")

    async def giver():
        wait.give(None)
        order.append("giver")

    drive(waiter(), trampoline)
    drive(giver(), trampoline)
    assert order == ["giver", "waiter"]


def test_a_chain_of_wake_ups_does_not_deepen_the_stack():
    trampoline, waits, seen = Trampoline(), [Wait() for _ in range(5000)], []

    async def link(index):
        await waits[index]
        if index + 1 < len(waits):
            waits[index + 1].give(None)
        seen.append(index)

    for index in range(len(waits)):
        drive(link(index), trampoline)
    waits[0].give(None)
    assert seen == list(range(5000))


def test_thrown_at_between_wake_up_and_resumption_the_error_wins_and_the_value_is_kept():
    trampoline, wait, seen = Trampoline(), Wait(), []

    async def waiter():
        try:
            await wait
        except KeyError:
            seen.append(wait.value)

    driven, ends = drive(waiter(), trampoline)

    async def other():
        wait.give("connection")
        driven.throw(KeyError())

    drive(other(), trampoline)
    assert (seen, ends) == (["connection"], [None])


def test_a_coroutine_that_cancels_itself_is_thrown_at_at_its_next_await():
    wait, seen = Wait(), []
    holder = []

    async def run():
        holder[0].throw(KeyError())
        seen.append("goes on")
        try:
            await wait
        except KeyError:
            seen.append("thrown")

    holder.append(Drive(run(), Trampoline(), lambda _: None))
    holder[0].start()
    assert seen == ["goes on", "thrown"]


def test_futures_sleeps_and_gathers_work_in_a_driven_coroutine():
    async def main():
        done = asyncio.get_running_loop().create_future()

        async def run():
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            assert await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0.001, 2)) == [1, 2]
            lock = asyncio.Lock()
            async with lock:
                pass
            done.set_result("done")

        Drive(run(), Trampoline(), lambda error: error and done.set_exception(error)).start()
        return await asyncio.wait_for(done, 2)

    assert uvloop.run(main()) == "done"


def test_throwing_cancels_the_future_that_is_waited_for():
    async def main():
        future = asyncio.get_running_loop().create_future()
        seen = []

        async def run():
            try:
                await future
            except KeyError:
                seen.append("thrown")

        driven, ends = drive(run())
        driven.throw(KeyError())
        await asyncio.sleep(0.01)
        return future.cancelled(), seen, ends

    assert uvloop.run(main()) == (True, ["thrown"], [None])


def test_a_future_done_but_not_yet_delivered_loses_against_a_throw():
    async def main():
        future = asyncio.get_running_loop().create_future()

        async def run():
            await future

        driven, ends = drive(run())
        future.set_result(1)
        error = KeyError()
        driven.throw(error)
        await asyncio.sleep(0.01)
        return ends == [error]

    assert uvloop.run(main())


def test_awaiting_what_is_no_future_is_an_error():
    class Odd:
        def __await__(self):  # noqa: ANN204 - a generator of anything
            yield "odd"

    async def run():
        await Odd()

    _, ends = drive(run())
    assert isinstance(ends[0], RuntimeError)


def test_an_owner_that_fails_does_not_stop_the_others():
    async def main():
        loop, reported, trampoline, wait = asyncio.get_running_loop(), [], Trampoline(), Wait()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))

        async def nothing():
            wait.give(None)

        async def other():
            await wait

        _, ends = drive(other(), trampoline)
        Drive(nothing(), trampoline, lambda _: 1 / 0).start()
        return ends, [type(error) for error in reported]

    assert uvloop.run(main()) == ([None], [ZeroDivisionError])


def test_a_wait_works_in_an_ordinary_task_and_its_cancellation():
    async def main():
        wait, other = Wait(), Wait()

        async def run(what):
            return await what

        task = asyncio.get_running_loop().create_task(run(wait))
        await asyncio.sleep(0)
        wait.give(3)
        cancelled = asyncio.get_running_loop().create_task(run(other))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        return await task

    assert uvloop.run(main()) == 3
