"""`tailrace token`: make a token for development, or end one before its time."""

import argparse
import asyncio
import math
import secrets
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from services.commands.outcome import GOOD, OTHER, USAGE
from shared.channel.embedded import EmbeddedPostgres, EmbeddedPostgresError
from shared.channel.embedded.running import running_uri
from shared.channel.log import LogUnavailable
from shared.channel.postgres import Database
from shared.edge.auth.keys import UnfitKey
from shared.edge.auth.revoked import Revocations
from shared.edge.auth.scopes import SCOPES, unknown
from shared.edge.auth.signing import SigningKey, sign, signing_pem, signing_secret
from shared.edge.auth.tokens import TokenRefused, unverified
from shared.edge.fields import Reference
from shared.edge.settings import Settings, SettingsError, with_files

DEFAULT_HOURS = 12.0
LONGEST_HOURS = 24.0 * 366


class Wrong(Exception):
    """The command cannot be done as it was said; the message says what to do."""


def add_token(commands: Any) -> None:
    """`token make` and `token revoke`, for the parser of `tailrace`."""
    token = commands.add_parser("token", help="make a token, or end one before its time")
    actions = token.add_subparsers(dest="action", required=True)
    text = "Print a token, signed with TAILRACE_JWT_SECRET or a private key, for TAILRACE_JWT_ISSUER and _AUDIENCE."
    make = actions.add_parser("make", help="print a new token", description=text)
    make.add_argument("--sub", required=True, help="whose it is: the user, or the service")
    make.add_argument("--tenant", required=True, help="the tenant whose tasks, runs and previews it is for")
    make.add_argument("--scope", action="append", default=[], help=f"what it is for, of: {' '.join(SCOPES)}")
    make.add_argument("--hours", type=_hours, default=DEFAULT_HOURS, help="how long it lives (%(default)g)")
    make.add_argument("--key", type=Path, metavar="FILE", help="a private key in PEM, in place of the secret")
    make.add_argument("--kid", help="the key's name, where tokens are checked with the keys of a URL")
    text = "End a token in every process within a second. It is enough to have it: no key is asked for."
    revoke = actions.add_parser("revoke", help="end a token before its time", description=text)
    revoke.add_argument("token", help="the token; - reads it from standard input, which ps does not show")


def run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Do what `tailrace token …` says; return the exit code. What is wrong is told in one sentence."""
    try:
        if options.action == "make":
            print(make(options, with_files(environment), time.time()))
        else:
            token = sys.stdin.read() if options.token == "-" else options.token
            until = asyncio.run(revoke(token.strip(), Settings.from_environment(environment)))
            left = math.ceil((until - time.time()) / 60)
            told = f"; {left} minutes before it expires" if left > 0 else "; it had expired already"
            print(f"tailrace: the token is revoked{told}", file=sys.stderr)
    except (Wrong, UnfitKey, TokenRefused, SettingsError) as error:
        print(f"tailrace: {error}", file=sys.stderr)
        return USAGE
    except (EmbeddedPostgresError, LogUnavailable) as error:
        print(f"tailrace: the token is not revoked: {error}", file=sys.stderr)
        return OTHER
    return GOOD


def make(options: argparse.Namespace, environment: Mapping[str, str], now: float) -> str:
    """A token as the options say. Raise Wrong, UnfitKey."""
    scopes = [scope for given in options.scope for scope in given.replace(",", " ").split()]
    if strange := unknown(scopes):
        raise Wrong(f"there is no scope {strange[0]!r}; there are {', '.join(SCOPES)}")
    key = _signing_key(options.key, environment)
    claims = {
        "iss": _setting(environment, "TAILRACE_JWT_ISSUER"),
        "aud": _setting(environment, "TAILRACE_JWT_AUDIENCE"),
        "sub": _name("--sub", options.sub),
        environment.get("TAILRACE_JWT_TENANT_CLAIM") or "tenant": _name("--tenant", options.tenant),
        "scope": " ".join(dict.fromkeys(scopes)),
        "iat": int(now),
        "exp": int(now + options.hours * 3600),
        "jti": secrets.token_urlsafe(12),
    }
    return sign(claims, key, None if options.kid is None else _name("--kid", options.kid))


async def revoke(token: str, settings: Settings) -> float:
    """End a token in all processes that share the settings' database; return when it would have expired. Raise
    TokenRefused for what was never one, LogUnavailable, EmbeddedPostgresError.
    """
    token_id, expires_at = unverified(token)
    async with AsyncExitStack() as stack:
        url = settings.database_url or _running(settings)
        if url is None:  # Tailrace does not run: its PostgreSQL is started for as long as this takes
            embedded = EmbeddedPostgres(_directory(settings))
            stack.push_async_callback(embedded.stop)
            url = await embedded.start()
        database = Database(url, pool_size=1)
        stack.push_async_callback(database.close)
        await database.start()
        revocations = Revocations(database)
        await revocations.prepare()
        await revocations.revoke(token_id, expires_at)
    return expires_at


def _directory(settings: Settings) -> Path:
    return Path(settings.data_directory) / "postgres"


def _running(settings: Settings) -> str | None:
    """The PostgreSQL of a Tailrace that runs here. Raise LogUnavailable when there never was one."""
    directory = _directory(settings)
    if not directory.exists():
        raise LogUnavailable(f"there is no database: TAILRACE_DATABASE_URL names none, and {directory} is not there")
    return running_uri(directory)


def _signing_key(path: Path | None, environment: Mapping[str, str]) -> SigningKey:
    if path is not None:
        try:
            return signing_pem(path.read_bytes())
        except OSError as error:
            raise Wrong(f"the key cannot be read from {path}: {error.strerror}") from None
    secret = environment.get("TAILRACE_JWT_SECRET")
    if not secret:
        raise Wrong("there is nothing to sign with: set TAILRACE_JWT_SECRET, or name a private key with --key")
    return signing_secret(secret)


def _setting(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name)
    if not value:
        raise Wrong(f"set {name} as the services have it: they take no token without")
    return value


def _name(option: str, text: str) -> str:
    try:
        return msgspec.convert(str(text.encode(), "utf-8"), Reference)
    except (msgspec.ValidationError, UnicodeError):  # a shell's argument may be no text
        raise Wrong(f"{option} is empty, longer than 200 characters, or no plain text") from None


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 < hours <= LONGEST_HOURS:
        raise argparse.ArgumentTypeError(f"more than 0, and at most {LONGEST_HOURS:g}")
    return hours
