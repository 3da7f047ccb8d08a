"""Scopes: which one grants which."""

import pytest

from shared.edge.auth.scopes import ALL, SCOPES, allows, known, unknown
from shared.edge.principal import LOCAL, Principal

# each scope, and what it grants
GRANTS = {
    "tasks:read": {"tasks:read"},
    "tasks:write": {"tasks:read", "tasks:write"},
    "runs:read": {"runs:read"},
    "runs:write": {"runs:read", "runs:write"},
    "runs:work": {"runs:work"},
    "sessions:read": {"sessions:read"},
    "sessions:write": {"sessions:write"},
    "previews:read": {"previews:read"},
    "previews:use": {"previews:read", "previews:use"},
    "previews:write": {"previews:read", "previews:use", "previews:write"},
    "previews:admin": {"previews:read", "previews:use", "previews:write", "previews:admin"},
    "feed:consume": {"feed:consume", "tasks:read", "runs:read", "previews:read"},
}


def bearer(*scopes: str) -> Principal:
    return Principal("acme", "ann", scopes=frozenset(scopes))


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_grants_what_the_table_says_and_nothing_else(scope: str) -> None:
    assert {wanted for wanted in SCOPES if allows(bearer(scope), wanted)} == GRANTS[scope]


def test_several_scopes_grant_what_each_of_them_does() -> None:
    both = bearer("runs:work", "sessions:write")
    assert {wanted for wanted in SCOPES if allows(both, wanted)} == {"runs:work", "sessions:write"}


def test_nobody_without_scopes_may_do_anything() -> None:
    assert not any(allows(bearer(), scope) for scope in SCOPES)
    assert not any(allows(Principal("acme", "ann"), scope) for scope in SCOPES)


def test_an_implied_scope_implies_what_it_does_too() -> None:
    for scope in SCOPES:
        granted = frozenset(wanted for wanted in SCOPES if allows(bearer(scope), wanted))
        assert {wanted for wanted in SCOPES if allows(bearer(*granted), wanted)} == granted


@pytest.mark.parametrize("slip", ["", "runs:reed", "runs", "*", "RUNS:READ", "runs:read "])
def test_asking_for_a_scope_that_is_none_is_a_mistake_of_the_code(slip: str) -> None:
    with pytest.raises(KeyError):
        allows(LOCAL, slip)


@pytest.mark.parametrize("scope", ["*", "runs:*", "runs", "admin", "previews:adminx", "runs:read,runs:write"])
def test_a_scope_of_others_grants_nothing(scope: str) -> None:
    assert not any(allows(bearer(scope), wanted) for wanted in SCOPES)


def test_scopes_of_others_are_left_out() -> None:
    assert known(["runs:read", "openid", "profile", "runs:read"]) == {"runs:read"}
    assert unknown(["runs:read", "profile", "openid"]) == ["openid", "profile"]


def test_with_auth_off_the_local_user_may_do_all_but_is_no_service() -> None:
    assert all(allows(LOCAL, scope) for scope in ALL)
    assert (LOCAL.is_service, LOCAL.expires_at, LOCAL.token_id) == (False, None, "")
