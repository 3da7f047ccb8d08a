"""A poll of the board that starts over: ids from which whoever is cut off gets what is missing."""

import json

import httpx

TASKS = "/api/v1/tasks"


def seq_of(frame: dict[str, str]) -> int:
    return int(frame["id"].rpartition("-")[2])


async def test_a_reset_of_the_board_has_an_id_before_all_that_follows_it(client: httpx.AsyncClient) -> None:
    for number in range(3):
        (await client.post(TASKS, json={"title": f"task {number}"})).raise_for_status()
    epoch = (await client.get(TASKS)).json()["as_of"].partition("-")[0]
    url = f"{TASKS}/events?after={epoch}-999999&on_reset=reset&limit=1"
    answer = (await client.get(url)).json()
    lines = (await client.get(url, headers={"accept": "application/x-ndjson"})).text.splitlines()
    for frames in (answer["data"], [json.loads(line) for line in lines][:-1]):
        reset, *snapshots = frames
        assert reset["event"]["type"] == "reset"
        assert [frame["event"]["title"] for frame in snapshots][-3:] == ["task 0", "task 1", "task 2"]
        again = (await client.get(f"{TASKS}/events?after={reset['id']}&limit=1000")).json()["data"]
        assert {frame["id"] for frame in snapshots} <= {frame["id"] for frame in again}
        assert seq_of(reset) < min(map(seq_of, snapshots))
    assert answer["next"] == answer["head"]


async def test_a_task_that_has_ended_ends_its_stream_as_ended_however_few_ticks_are_asked_for(
    client: httpx.AsyncClient,
) -> None:
    task = (await client.post(TASKS, json={"title": "over", "status": "running"})).json()
    (await client.patch(f"{TASKS}/{task['id']}", json={"status": "succeeded"})).raise_for_status()
    stream = (await client.get(f"{TASKS}/{task['id']}/stream?max_ticks=1")).text
    end = json.loads(stream.rstrip().rpartition("data: ")[2])
    assert (end["type"], end["reason"], end["status"]) == ("stream_end", "terminal", "succeeded")
