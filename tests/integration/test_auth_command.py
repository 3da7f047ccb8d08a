"""`tailrace token`: what it makes is taken, what it revokes is not, and what is wrong is a sentence."""

import argparse
import asyncio
import io
from pathlib import Path
from typing import Any

import pytest

from services.commands.outcome import GOOD, OTHER, USAGE
from services.commands.token import DEFAULT_HOURS, add_token, run
from shared.channel.postgres import Database
from shared.edge.auth.revoked import Revocations
from shared.edge.auth.tokens import TokenRefused, TokenRules, Verifier
from shared.edge.principal import Principal
from tests.support.contract import sql
from tests.support.postgres import OwnPostgres
from tests.support.readers import eventually
from tests.unit.edge.auth.sample import AUDIENCE, ISSUER, NOW, SECRET, private_pem, public_pem, token

ENVIRONMENT = {"TAILRACE_JWT_SECRET": SECRET, "TAILRACE_JWT_ISSUER": ISSUER, "TAILRACE_JWT_AUDIENCE": AUDIENCE}
WHOSE = ["--sub", "ann", "--tenant", "acme"]


def command(*arguments: str, **environment: str) -> int:
    """The exit code of `tailrace token …`."""
    parser = argparse.ArgumentParser(prog="tailrace")
    add_token(parser.add_subparsers(dest="command", required=True))
    return run(parser.parse_args(["token", *arguments]), environment)


def made(capsys: pytest.CaptureFixture[str], *arguments: str, **environment: str) -> str:
    """The token, which is all that is printed."""
    assert command("make", *WHOSE, *arguments, **{**ENVIRONMENT, **environment}) == GOOD
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    return out.rstrip("\n")


def told(capsys: pytest.CaptureFixture[str], code: int, *arguments: str, **environment: str) -> str:
    """What is said of a mistake: one line, and nothing on standard output."""
    assert command(*arguments, **environment) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert SECRET not in err
    return err


def verify(token: str, **rules: Any) -> Principal:
    given = rules or {"secret": SECRET}
    return asyncio.run(Verifier(TokenRules(issuer=ISSUER, audience=AUDIENCE, **given)).verify(token))


# ── making ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_is_made_and_taken(capsys: pytest.CaptureFixture[str]) -> None:
    principal = verify(made(capsys, "--scope", "runs:read runs:work", "--scope", "tasks:read,tasks:write"))
    assert (principal.owner, principal.tenant) == ("ann", "acme")
    assert principal.scopes == {"runs:read", "runs:work", "tasks:read", "tasks:write"}
    assert principal.token_id.startswith("jti:")


def test_each_token_has_an_id_and_a_life_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    long, short = verify(made(capsys)), verify(made(capsys, "--hours", "0.5"))
    assert long.token_id != short.token_id
    assert long.expires_at is not None
    assert short.expires_at is not None
    assert long.expires_at - short.expires_at == pytest.approx((DEFAULT_HOURS - 0.5) * 3600, abs=30)


@pytest.mark.parametrize("kind", ["rsa", "ES256", "ES384", "ES512", "ed25519"])
def test_a_private_key_signs_in_place_of_the_secret(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    key = tmp_path / "key.pem"
    key.write_text(private_pem(kind))
    signed = made(capsys, "--key", str(key), "--kid", "2026")
    assert verify(signed, public_key=public_pem(kind)).owner == "ann"
    with pytest.raises(TokenRefused):
        verify(signed)
    with pytest.raises(TokenRefused):
        verify(signed, public_key=public_pem("ed448"))


def test_the_tenant_goes_into_the_claim_that_the_services_read(capsys: pytest.CaptureFixture[str]) -> None:
    signed = made(capsys, TAILRACE_JWT_TENANT_CLAIM="https://acme.example/org")
    assert verify(signed, secret=SECRET, tenant_claim="https://acme.example/org").tenant == "acme"


@pytest.mark.parametrize("missing", ENVIRONMENT)
def test_without_a_setting_there_is_no_token_but_a_sentence(capsys: pytest.CaptureFixture[str], missing: str) -> None:
    given = {name: value for name, value in ENVIRONMENT.items() if name != missing}
    assert missing in told(capsys, USAGE, "make", *WHOSE, **given)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scope", "runs:reed"], "there is no scope 'runs:reed'; there are tasks:read"),
        (["--scope", "*"], "there is no scope '*'"),
        (["--key", "/nowhere/key.pem"], "cannot be read from /nowhere/key.pem: No such file"),
        (["--key", "/"], "cannot be read from /"),
        (["--key", "pyproject.toml"], "no private key in PEM"),
        (["--sub", ""], "--sub is empty"),
        (["--sub", "a\nb"], "--sub is"),
        (["--sub", "\udcff"], "--sub is"),
        (["--tenant", "x" * 201], "--tenant is"),
        (["--kid", ""], "--kid is"),
    ],
)
def test_a_mistake_is_a_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert said in told(capsys, USAGE, "make", *WHOSE, *arguments, **ENVIRONMENT)


@pytest.mark.parametrize("kind", ["rsa-1024", "ES256K", "public", "password"])
def test_a_key_that_no_service_would_take_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    key = tmp_path / "key.pem"
    locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGj\n-----END ENCRYPTED PRIVATE KEY-----\n"
    key.write_text({"public": public_pem("rsa"), "password": locked}.get(kind) or private_pem(kind))
    told(capsys, USAGE, "make", *WHOSE, "--key", str(key), **ENVIRONMENT)


def test_a_short_secret_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, USAGE, "make", *WHOSE, **{**ENVIRONMENT, "TAILRACE_JWT_SECRET": "hunter2"})
    assert "openssl rand" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "1e9", "soon"])
def test_a_token_lives_for_some_hours(capsys: pytest.CaptureFixture[str], hours: str) -> None:
    with pytest.raises(SystemExit):
        command("make", *WHOSE, "--hours", hours, **ENVIRONMENT)
    assert capsys.readouterr().out == ""


# ── revoking ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_token_that_is_revoked_ends_in_a_running_process(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = Verifier(TokenRules(issuer=ISSUER, audience=AUDIENCE, secret=SECRET), now=lambda: NOW)
    first, second, third = [await verifier.verify(token(sub=sub)) for sub in ("ann", "bob", "eve")]
    database = Database(database_url, pool_size=1)
    await database.start()
    revocations = Revocations(database, now=lambda: NOW, poll_seconds=3600)
    await revocations.start()
    try:
        await eventually(lambda: revocations.listening, "it listens")
        for way, sub in (("argument", "ann"), ("input", "bob")):
            monkeypatch.setattr("sys.stdin", io.StringIO(token(sub=sub) + "\n"))
            argument = token(sub=sub) if way == "argument" else "-"
            assert await asyncio.to_thread(command, "revoke", argument, TAILRACE_DATABASE_URL=database_url) == GOOD
        await eventually(lambda: revocations.is_revoked(first) and revocations.is_revoked(second), "both have ended")
        assert not revocations.is_revoked(third)
    finally:
        await revocations.close()
        await database.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert "the token is revoked; " in err


async def test_the_database_beside_a_running_tailrace_is_found(
    own_postgres: OwnPostgres, postgres_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = postgres_directory / "token-command"
    server = own_postgres(directory=data / "postgres")
    url = await server.start()
    assert (
        await asyncio.to_thread(command, "revoke", token(jti="while it runs"), TAILRACE_DATA_DIRECTORY=str(data)) == 0
    )
    await server.stop()
    assert await asyncio.to_thread(command, "revoke", token(jti="afterwards"), TAILRACE_DATA_DIRECTORY=str(data)) == 0
    await server.start()
    async with sql(url) as connection:
        rows = await connection.fetch("SELECT token_id FROM access.revoked ORDER BY 1")
    assert [row["token_id"] for row in rows] == ["jti:afterwards", "jti:while it runs"]
    assert "the token is revoked" in capsys.readouterr().err


def test_where_there_is_no_database_nothing_is_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = told(capsys, OTHER, "revoke", token(), TAILRACE_DATA_DIRECTORY=str(tmp_path / "none"))
    assert "the token is not revoked: there is no database" in said
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_away_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    away = "postgresql://ann@127.0.0.1:1/tailrace"
    assert "the token is not revoked" in told(capsys, OTHER, "revoke", token(), TAILRACE_DATABASE_URL=away)


@pytest.mark.parametrize("text", ["", "hunter2", "a.b.c", token(exp=None)])
def test_what_is_no_token_is_a_sentence_that_does_not_repeat_it(capsys: pytest.CaptureFixture[str], text: str) -> None:
    said = told(capsys, USAGE, "revoke", text, TAILRACE_DATABASE_URL="postgresql://nowhere")
    assert not text or text not in said


def test_a_setting_that_is_wrong_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert "TAILRACE_PORT" in told(capsys, USAGE, "revoke", token(), TAILRACE_PORT="many")
