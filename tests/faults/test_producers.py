"""Batches of a producer that arrive several times, and in no order."""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.trial import Trial, trial
from tests.support.contract import RUNS
from tests.support.postgres import OwnPostgres
from tests.support.readers import BACK_OFF_SECONDS, Load, Writer, seeded


class Scrambler(Writer):
    """Sends several batches at once, shuffled, some of them twice and some overlapping; each until it is taken."""

    async def write(self, enough: Callable[[Writer], bool]) -> None:
        while not enough(self):
            starts = [self.acknowledged + 1]
            for _ in range(self._chance.randint(2, 6)):
                starts.append(starts[-1] + self._chance.randint(1, 5))
            batches = list(itertools.pairwise(starts))
            batches += [
                (max(1, first - self._chance.randint(0, 3)), end) for first, end in self._chance.sample(batches, 2)
            ]
            self._chance.shuffle(batches)
            await asyncio.gather(*(self._send(first, end) for first, end in batches))
            self.acknowledged = starts[-1] - 1
            await asyncio.sleep(self._chance.uniform(0, self._pause))
        await self._post("finish", {"status": "completed"})

    async def _send(self, first: int, end: int) -> None:
        """Until it is acknowledged; while those before it are missing it is refused, with the number that is."""
        body: dict[str, Any] = {"producer": self.name, "producer_seq": first}
        body["events"] = [self._event(number) for number in range(first, end)]
        while True:
            url = f"{self._chance.choice(self._bases)}{RUNS}/{self.run_id}/events"
            answer = await self._client.post(url, json=body, headers={"tailrace-lease": self._token})
            self.answers[str(answer.status_code)] += 1
            if answer.status_code == 200:
                assert answer.json()["next_producer_seq"] >= end
                return
            assert answer.status_code == 409, answer.text
            assert answer.json()["expected_producer_seq"] < first
            await asyncio.sleep(self._chance.uniform(0, BACK_OFF_SECONDS / 4))


async def test_batches_that_come_twice_and_out_of_order_are_stored_once_and_in_order(
    own_postgres: OwnPostgres, postgres_directory: Path
) -> None:
    chance = seeded("producers")
    directory = postgres_directory / f"fault-{chance.randrange(2**32)}"

    async def go_on(tried: Trial, load: Load) -> None:
        await load.progress(120)

    async with trial(own_postgres, directory, chance) as tried:
        load = await tried.withstand(go_on, writer=Scrambler)
    assert load.answers["409"] > 0  # or none came out of order
    assert load.answers.keys() == {"200", "409"}
