"""Each fault, while three writers and twelve readers are at work."""

from pathlib import Path

import pytest

from tests.faults.trial import Trial, trial
from tests.support.faults import FAULTS
from tests.support.postgres import OwnPostgres
from tests.support.readers import Load, seeded


@pytest.mark.parametrize("name", FAULTS, ids=lambda name: name.replace(" ", "_"))
async def test_nothing_is_lost_repeated_or_leaked_when(
    name: str, own_postgres: OwnPostgres, postgres_directory: Path
) -> None:
    chance = seeded(name)

    async def spoil(trial: Trial, load: Load) -> None:
        await FAULTS[name](trial.victim)

    async with trial(own_postgres, postgres_directory / f"fault-{chance.randrange(2**32)}", chance) as tried:
        await tried.withstand(spoil)
