import pytest

from shared.protocol.ends import EndReason


@pytest.mark.parametrize(
    ("label", "final", "close_code"),
    [
        ("terminal", True, 1000),
        ("max_ticks", True, 1000),
        ("access_revoked", True, 4404),
        ("token_expired", False, 4401),
        ("server_shutdown", False, 1012),
        ("max_duration", False, 1012),
        ("slow_reader", False, 4408),
    ],
)
def test_each_end_says_whether_to_come_back(label: str, final: bool, close_code: int) -> None:
    reason = EndReason[label.upper()]
    assert (reason.label, reason.final, reason.close_code) == (label, final, close_code)


def test_there_are_seven_ends_and_none_is_an_alias_of_another() -> None:
    # Enum makes members of equal value the same one: (name, final, code) must stay distinct
    assert len(EndReason) == len(EndReason.__members__) == 7
