"""Flag and Mailbox do what asyncio's Event and Queue do, whoever is cancelled."""

import asyncio

from shared.edge.lean import Flag, Mailbox


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_flag_wakes_all_who_wait_and_lets_pass_who_comes_later() -> None:
    flag = Flag()
    waiting = [asyncio.ensure_future(flag.wait()) for _ in range(3)]
    await turns()
    assert not any(task.done() for task in waiting)
    flag.set()
    flag.clear()  # who waited is woken all the same
    assert await asyncio.gather(*waiting) == [True] * 3
    assert not flag.is_set()
    late = asyncio.ensure_future(flag.wait())
    await turns()
    assert not late.done()
    flag.set()
    assert await late
    assert await flag.wait()


async def test_a_flag_forgets_who_was_cancelled() -> None:
    flag = Flag()
    leaving, staying = (asyncio.ensure_future(flag.wait()) for _ in range(2))
    await turns()
    leaving.cancel()
    await asyncio.wait([leaving])
    assert len(flag._waiters) == 1
    flag.set()
    assert await staying
    assert not flag._waiters


async def test_a_flag_that_is_set_starts_that_way() -> None:
    assert Flag(is_set=True).is_set()
    assert await Flag(is_set=True).wait()


async def test_a_mailbox_gives_in_order_and_waits_when_it_is_empty() -> None:
    mailbox = Mailbox()
    assert mailbox.empty()
    taking = asyncio.ensure_future(mailbox.get())
    await turns()
    assert not taking.done()
    for item in (1, 2, 3):
        mailbox.put_nowait(item)
    assert not mailbox.empty()
    assert [await taking, await mailbox.get(), await mailbox.get()] == [1, 2, 3]
    assert mailbox.empty()


async def test_what_came_for_one_who_was_cancelled_is_there_for_the_next() -> None:
    mailbox = Mailbox()
    taking = asyncio.ensure_future(mailbox.get())
    await turns()
    mailbox.put_nowait("kept")
    taking.cancel()
    await asyncio.wait([taking])
    assert taking.cancelled()
    assert await mailbox.get() == "kept"
