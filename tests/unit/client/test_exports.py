import shared.client


def test_the_exported_names_are_the_intended_ones() -> None:
    assert sorted(shared.client.__all__) == [
        "AccessRevoked",
        "Batch",
        "Client",
        "ClientError",
        "Conflict",
        "Feed",
        "Follow",
        "Forbidden",
        "Gone",
        "LeasedRun",
        "Missing",
        "PositionStore",
        "Published",
        "Publisher",
        "Received",
        "Refused",
        "Unauthorized",
        "Unavailable",
        "Unreadable",
        "Worker",
        "consume",
        "iterate",
    ]
    assert all(hasattr(shared.client, name) for name in shared.client.__all__)
