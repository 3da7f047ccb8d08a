"""Peers are waited for in order, for a time, and make room for others when there is none."""

import pytest

from shared.edge.patience import DISMISSED_AT_ONCE, KEEP_ALIVE_SECONDS, Peers, Queue


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Peer:
    def __init__(self) -> None:
        self.ends: list[Queue] = []
        self.made_room = False

    def overdue(self, queue: Queue) -> None:
        self.ends.append(queue)

    def make_room(self) -> None:
        self.made_room = True


def peers_of(clock: Clock, *, per_process: int = 3, per_address: int = 0) -> Peers:
    return Peers(
        request_seconds=10,
        unread_seconds=35,
        per_process=per_process,
        per_address=per_address,
        body_bytes=1_000,
        clock=clock,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_peer_is_overdue_once_and_only_when_its_time_is_up(clock: Clock) -> None:
    peers, peer = peers_of(clock), Peer()
    peers.heads.enter(peer)
    clock.now += 9.9
    peers.look()
    assert peer.ends == []
    clock.now += 0.1
    peers.look()
    peers.look()
    assert peer.ends == [peers.heads]
    assert peer not in peers.heads


def test_entering_again_does_not_prolong(clock: Clock) -> None:
    peers, peer = peers_of(clock), Peer()
    peers.messages.enter(peer)
    clock.now += 9
    peers.messages.enter(peer)
    clock.now += 1
    peers.look()
    assert peer.ends == [peers.messages]


def test_who_leaves_in_time_is_left_alone(clock: Clock) -> None:
    peers, peer = peers_of(clock), Peer()
    peers.idle.enter(peer)
    peers.idle.leave(peer)
    peers.idle.leave(peer)
    clock.now += KEEP_ALIVE_SECONDS
    peers.look()
    assert peer.ends == []


def test_a_flood_of_overdue_peers_is_dismissed_in_parts(clock: Clock) -> None:
    peers, crowd = peers_of(clock), [Peer() for _ in range(DISMISSED_AT_ONCE + 1)]
    for peer in crowd:
        peers.heads.enter(peer)
    clock.now += 10
    peers.look()
    assert sum(len(peer.ends) for peer in crowd) == DISMISSED_AT_ONCE
    peers.look()
    assert all(peer.ends == [peers.heads] for peer in crowd)


def test_who_has_waited_longest_for_a_head_makes_room_then_who_is_idle_then_who_sends_a_body(clock: Clock) -> None:
    peers, body, idle, head = peers_of(clock), Peer(), Peer(), Peer()
    for peer, queue in ((body, peers.bodies), (idle, peers.idle), (head, peers.heads)):
        assert peers.admit(peer, "10.0.0.1") == 0
        queue.enter(peer)
    for peer in (head, idle, body):
        assert peers.admit(Peer(), "10.0.0.1") == 0
        assert peer.made_room
        peers.give_back(peer, "10.0.0.1")
    assert peers.admit(Peer(), "10.0.0.1") == 503


def test_an_address_has_its_share_and_an_ipv6_network_is_one(clock: Clock) -> None:
    peers, first = peers_of(clock, per_process=100, per_address=2), Peer()
    assert peers.admit(first, "2001:db8::1") == 0
    assert peers.admit(Peer(), "2001:db8::2") == 0
    assert peers.admit(Peer(), "2001:db8::3") == 429
    assert peers.admit(Peer(), "2001:db8:0:1::3") == 0
    peers.give_back(first, "2001:db8::1")
    assert peers.admit(Peer(), "2001:db8::3") == 0


def test_bodies_have_room_for_sixty_four_of_the_largest(clock: Clock) -> None:
    peers = peers_of(clock)
    peers.held_bytes = 64_000
    assert peers.has_room_for_body()
    peers.held_bytes += 1
    assert not peers.has_room_for_body()
