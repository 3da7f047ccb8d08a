"""How Hypothesis works here."""

from hypothesis import HealthCheck, Phase, settings

# The machine is shared: how long an example takes says nothing about the code.
USUAL = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For a mutation run, where an example that fails need not be made small, nor be remembered.
BRISK = settings(USUAL, phases=(Phase.explicit, Phase.generate), derandomize=True, database=None, max_examples=50)


def register() -> None:
    settings.register_profile("usual", USUAL)
    settings.register_profile("mutants", BRISK)
    settings.load_profile("usual")
