"""compose.yaml for real: containers, networks and volumes, through the proxy, with containers killed.

`make test-compose` runs it. One stack for the whole file: the tests leave it well, and the last changes it for good.
"""

import asyncio
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared.client import Client
from tests.support.contract import RUNS, events_of, finish, problem_of, read_until_live
from tests.support.previews import LITESTAR, preview_url, recipe
from tests.support.readers import AWAY, TRANSPORTS, Load, Reader, Stream, Writer, eventually, patient_client, seeded
from tests.support.server import append, lease, sse
from tests.support.stack import SECONDS, Stack, brought_up, lines_of, log_through, run
from tests.support.tasks import TASKS

pytestmark = [pytest.mark.compose, pytest.mark.asyncio(loop_scope="module")]

# From inside a sandbox: what may be reached. Prints a line for each attempt.
PROBE = """\
import json, os, socket, sys
def attempt(what, do):
    try:
        do()
    except OSError as error:
        print("refused", what, type(error).__name__, flush=True)
    else:
        print("REACHED", what, flush=True)
for place in json.loads(sys.argv[1]):
    host, port = place.split(":")
    attempt(place, lambda: socket.create_connection((host, int(port)), timeout=3).close())
for name in ("postgres", "tasks", "runs", "nginx"):
    attempt(name, lambda: socket.getaddrinfo(name, 80))
for path in ("/secrets/database/url", "/secrets/database/password", "/data/previews/host"):
    attempt(path, lambda: open(path))
attempt("/usr/written", lambda: open("/usr/written", "w"))
def look(number):
    if b"TAILRACE_DATABASE" not in open(f"/proc/{number}/environ", "rb").read():
        raise OSError
for number in filter(str.isdigit, os.listdir("/proc")):
    attempt("settings", lambda: look(number))
print("user", os.getuid(), "processes", sum(name.isdigit() for name in os.listdir("/proc")), flush=True)
status = [line.split() for line in open("/proc/self/status")]
capabilities = [words[1] for words in status if words[0] in ("CapEff:", "CapBnd:", "CapPrm:")]
print("capabilities", *capabilities, flush=True)
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with brought_up(lease_seconds=300, heartbeat_seconds=2, log_level="warning") as up:
        yield up


@pytest_asyncio.fixture(loop_scope="module")
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.url, timeout=60) as opened:
        await stack.ready(opened)
        yield opened


async def ended_task(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    """The task, once it has ended."""
    found: dict[str, Any] = {}

    async def has_ended() -> bool:
        found.update((await client.get(f"{TASKS}/{task_id}")).raise_for_status().json())
        return bool(found["status"] in ("succeeded", "failed", "cancelled"))

    await eventually(has_ended, "the task has ended", SECONDS)
    return found


def own_name(preview: dict[str, Any]) -> str:
    return str(preview["id"]).replace("_", "-", 1)


async def launched(client: httpx.AsyncClient, generation: str, status: str, body: dict[str, Any]) -> dict[str, Any]:
    """A preview, once it has come to this status."""
    (await client.post(preview_url(generation), json=body)).raise_for_status()
    found: dict[str, Any] = {}

    async def has_come() -> bool:
        found.update((await client.get(preview_url(generation))).raise_for_status().json())
        assert found["status"] not in ("failed", "lost"), found
        return bool(found["status"] == status)

    await eventually(has_come, f"the preview is {status}", SECONDS)
    return found


# ── what it does ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_a_run_and_a_preview_through_the_proxy(stack: Stack, client: httpx.AsyncClient) -> None:
    generation = "stack-1"
    task = (
        (await client.post(TASKS, json={"title": "all of it", "generation_id": generation})).raise_for_status().json()
    )
    body = {"task": "say something", "runner": "sample", "task_id": task["id"]}
    started = (await client.post(RUNS, json=body)).raise_for_status().json()
    async with Client(stack.url) as follower, asyncio.timeout(SECONDS):
        seen = [item async for item in follower.follow(f"{RUNS}/{started['id']}/stream")]
    assert len(seen) == len(await events_of(client, started["id"])) > 10
    ended = await ended_task(client, task["id"])
    assert (ended["status"], ended["progress"]["done"]) == ("succeeded", 1)

    body = {"files": {"main.py": LITESTAR}, "kind": "asgi", "entry": "main:app"}
    preview = await launched(client, generation, "running", body)
    assert preview["isolation"] == "bubblewrap"
    assert preview["url"] == f"http://{own_name(preview)}.localhost:{stack.port}/"
    assert (await client.get(preview["passage"])).text == "from a program"
    ticket = (await client.post("/api/v1/stream-tickets", json={"path": preview["passage"]})).raise_for_status().json()
    own = {"Host": httpx.URL(preview["url"]).netloc.decode()}
    entered = await client.get(f"/?ticket={ticket['ticket']}", headers=own)
    assert entered.status_code == 303
    assert "secure" not in entered.headers["set-cookie"].lower()
    cookie = entered.headers["set-cookie"].partition(";")[0]
    assert (await client.get("/", headers={**own, "Cookie": cookie})).text == "from a program"
    assert "somebody is here" in [line async for line in lines_of(client, generation)]
    node = {"files": {"a.js": NODE}, "kind": "node", "entry": "a.js"}
    assert (await launched(client, "stack-node", "running", node))["ready_after_ms"] > 0
    for name in (generation, "stack-node"):
        assert (await client.delete(preview_url(name))).status_code == 202
    assert (await client.get("/")).headers["content-type"].startswith("text/html")


NODE = "require('http').createServer((q, a) => a.end('from node')).listen(process.env.PORT)"


async def test_a_program_reaches_neither_the_database_nor_another_container(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    gateways = [str(ipaddress.ip_address(address) - 1) for address in stack.addresses("nginx")]
    places = [
        *(f"{address}:5432" for address in stack.addresses("postgres")),
        *(f"{address}:8000" for service in ("tasks", "runs", "previews") for address in stack.addresses(service)),
        *(f"{address}:8080" for address in stack.addresses("nginx")),
        *(f"{address}:{stack.port}" for address in gateways),
        "127.0.0.1:8000",
        "169.254.169.254:80",
    ]
    body = recipe(command=["python", "-c", PROBE, json.dumps(places)])
    (await client.post(preview_url("stack-probe"), json=body)).raise_for_status()
    said: list[str] = []

    async def is_done() -> bool:
        said[:] = [line async for line in lines_of(client, "stack-probe")]
        assert not [line for line in said if line.startswith("Traceback")], said
        return "done" in said

    await eventually(is_done, "the probe is done", SECONDS)
    assert [line for line in said if line.startswith("REACHED")] == []
    assert len([line for line in said if line.startswith("refused")]) >= len(places) + 4 + 3 + 1 + 1
    (user,) = [line.split() for line in said if line.startswith("user")]
    assert int(user[1]) >= 62_000
    assert int(user[3]) <= 3
    assert [line for line in said if line.startswith("capabilities")] == ["capabilities" + " 0000000000000000" * 3]
    refused = await client.post(preview_url("stack-network"), json=recipe(network=True))
    problem_of(refused, 422)


async def test_the_containers_are_as_closed_as_they_can_be(stack: Stack) -> None:
    for service in ("postgres", "tasks", "runs", "previews", "nginx"):
        (container,) = stack.containers(service)
        found = json.loads(run("docker", "inspect", container))[0]
        host, user = found["HostConfig"], found["Config"]["User"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert host["Memory"] > 0, service
        assert host["PidsLimit"] > 0, service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        if service in ("tasks", "runs", "nginx"):
            assert (user, host["CapAdd"]) == ("10001:10001", None), service
        published = {
            f"{port['HostIp']}:{port['HostPort']}" for ports in host["PortBindings"].values() for port in ports
        }
        assert published == ({f"127.0.0.1:{stack.port}"} if service == "nginx" else set())
        assert "postgresql://" not in json.dumps(found["Config"]), service  # the password is in a file
    networks = json.loads(run("docker", "inspect", stack.containers("postgres")[0]))[0]["NetworkSettings"]["Networks"]
    assert list(networks) == [f"{stack.name}_database"]
    assert json.loads(run("docker", "network", "inspect", f"{stack.name}_database"))[0]["Internal"]


async def test_the_services_see_the_client_s_address_from_the_proxy_alone(stack: Stack) -> None:
    (nginx,) = [address for address in stack.addresses("nginx") if address.endswith(".2")]
    (container,) = stack.containers("runs")
    environment = json.loads(run("docker", "inspect", container))[0]["Config"]["Env"]
    assert f"TAILRACE_TRUSTED_PROXIES={nginx}" in environment
    everybody = [address for name in ("tasks", "runs", "previews") for address in stack.addresses(name)]
    assert nginx not in everybody


# ── what it survives ───────────────────────────────────────────────────────────────────────────────────────────


async def test_nothing_is_lost_or_repeated_while_containers_are_killed_and_runs_are_three(stack: Stack) -> None:
    chance = seeded("stack")
    async with patient_client() as client, httpx.AsyncClient(base_url=stack.url, timeout=60) as owner:
        await stack.scaled("runs", 3)
        assert len(stack.containers("runs")) == 3
        await stack.ready(owner)
        work = await tasks_with_runs(owner, 6)
        writers = [Writer(client, [stack.url], f"writer-{n}", chance, pause_seconds=0.05) for n in range(3)]
        for writer in writers:
            await writer.begin()
        readers = [
            *(Reader(client, [stack.url], Stream(), transport, chance, cut_every=200) for transport in TRANSPORTS),
            Reader(client, [stack.url], Stream((writers[0].run_id,), alone=True), "sse", chance),
            Reader(client, [stack.url], Stream(types="status,error"), "tailrace.v1", chance),
        ]
        load = Load(writers, readers)
        async with load.beside(lambda: log_through(owner), seconds=SECONDS):
            await load.progress()
            killed = ("runs", "postgres", "nginx", "tasks", "runs", "previews")
            for service, (_, run_id, token) in zip(killed, work, strict=True):
                await asyncio.gather(
                    stack.restarted(chance.choice(stack.containers(service))), finished(owner, run_id, token)
                )
                await load.progress()
            await stack.scaled("runs", 1)  # two leave in good order
            await stack.ready(owner)
            await load.progress()
        for task_id, run_id, _ in work:
            ended = await ended_task(owner, task_id)
            assert (ended["status"], ended["progress"]["done"]) == ("succeeded", 1)
            frames = (await owner.get(f"{TASKS}/{task_id}/events?after=start")).json()["data"]
            statuses = [frame["event"]["status"] for frame in frames if frame["event"]["type"] == "snapshot"]
            assert statuses.count("succeeded") == 1, run_id
        print(f"answers {dict(load.answers)}, faults {[dict(reader.faults) for reader in readers]}")


async def tasks_with_runs(client: httpx.AsyncClient, count: int) -> list[tuple[str, str, str]]:
    """Tasks, each with a run that is leased: their ids and the lease's token."""
    made = []
    for number in range(count):
        task = (await client.post(TASKS, json={"title": f"task {number}"})).raise_for_status().json()
        run_id, token = await lease(client, runner=f"owned-{number}", task_id=task["id"])
        made.append((task["id"], run_id, token))
    return made


async def finished(client: httpx.AsyncClient, run_id: str, token: str) -> None:
    """Finish the run, whatever is away just now."""

    async def is_acknowledged() -> bool:
        try:
            answer = await finish(client, run_id, token)
        except httpx.TransportError:
            return False
        assert answer.status_code in (200, 409, *AWAY), answer.text  # 409: it was, and the answer was lost
        return answer.status_code not in AWAY

    await eventually(is_acknowledged, "a run is finished", SECONDS)


async def test_afterwards_each_event_is_received_before_the_next_is_published(client: httpx.AsyncClient) -> None:
    run_id, token = await lease(client)
    async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
        await read_until_live(stream)
        for _ in range(10):
            await append(client, run_id, token)
            await stream.until(lambda message: message.event == "node_update")


async def test_after_a_restore_into_the_same_cluster_every_reader_starts_over(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """As docs/operations.md has it."""
    kept, token = await lease(client, task="kept")
    stack.inside("postgres", "sh", "-c", "pg_dump -U tailrace -Fc tailrace >/tmp/tailrace.dump")
    await append(client, kept, token, 3)
    lost, _ = await lease(client, task="lost")
    last = (await events_of(client, kept))[-1].id
    stack.compose("stop", "nginx", "tasks", "runs", "previews")
    for command in ("dropdb -U tailrace tailrace", "createdb -U tailrace tailrace"):
        stack.inside("postgres", *command.split())
    stack.inside("postgres", "pg_restore", "-U", "tailrace", "-d", "tailrace", "/tmp/tailrace.dump")
    stack.compose("run", "-T", "--rm", "--no-deps", "tasks", "epoch", "new")
    await stack.composed("up", "--detach", "--no-recreate", "--no-deps", "tasks", "runs", "previews", "nginx")
    await stack.ready(client)
    problem_of(await client.get(f"{RUNS}/{lost}"), 404)
    async with sse(client, f"{RUNS}/{kept}/stream", headers={"Last-Event-ID": str(last)}) as stream:
        messages = await stream.until(lambda message: message.event == "live")
    assert [message.event for message in messages] == ["hello", "reset", "status", "status", "live"]
    assert json.loads(messages[1].data)["reason"] == "epoch_changed"


# ── the overlays ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_with_the_overlays_everybody_needs_a_token_and_tls_is_spoken(stack: Stack) -> None:
    stack.files = ("compose.yaml", "compose.jwt.yaml", "compose.tls.yaml")
    await stack.composed("up", "--detach")
    certificate = stack.inside("nginx", "cat", "/secrets/tls/certificate.pem")
    trusting = ssl.create_default_context(cadata=certificate)
    async with (
        httpx.AsyncClient(base_url=f"https://127.0.0.1:{stack.tls_port}", verify=trusting, timeout=60) as client,
        httpx.AsyncClient(base_url=stack.url, timeout=60) as plain,
    ):
        await stack.ready(client)
        assert (await plain.get("/")).status_code == 308
        problem_of(await client.get(RUNS), 401)
        scopes = ("runs:write", "runs:read", "tasks:read", "tasks:write", "previews:read", "previews:write")
        words = [word for scope in scopes for word in ("--scope", scope)]
        make = ("tailrace", "token", "make", "--sub", "me", "--tenant", "acme", *words)
        client.headers["authorization"] = f"Bearer {stack.inside('tasks', *make).strip()}"
        assert (await client.get(RUNS)).json()["data"] == []  # another tenant's are not shown
        task = (await client.post(TASKS, json={"title": "mine"})).raise_for_status().json()
        body = {"task": "say something", "runner": "sample", "task_id": task["id"]}
        (await client.post(RUNS, json=body)).raise_for_status()
        assert (await ended_task(client, task["id"]))["status"] == "succeeded"  # by the service's own token
        preview = await launched(
            client, "acme-1", "running", {"files": {"main.py": LITESTAR}, "kind": "asgi", "entry": "main:app"}
        )
        assert preview["url"].startswith(f"https://{own_name(preview)}.localhost:{stack.tls_port}/")
        ticket = (await client.post("/api/v1/stream-tickets", json={"path": preview["passage"]})).json()["ticket"]
        del client.headers["authorization"]
        own = {"Host": httpx.URL(preview["url"]).netloc.decode()}
        entered = await client.get(f"/?ticket={ticket}", headers=own)
        assert entered.status_code == 303
        assert "secure" in entered.headers["set-cookie"].lower()
    said = stack.compose("logs", "--no-color")
    assert ticket not in said
