"""The table."""

from collections.abc import Iterator

from tests.conformance.table import Ask, Case, Comes

A_RUN = ("run a", "a updates 3", "a errs")  # a1 … a6, and it goes on
OVER = (*A_RUN, "a completed")  # a7
A_SESSION = (
    "session s",
    "s queen says client_output_delta",  # s1
    "s queen says tool_call_started",  # s2
    "s worker:7 says llm_text_delta",  # s3
    "s worker:7 says subagent_report",  # s4
    "s queen says custom.vote",  # s5
    "s queen says execution_started",  # s6
)
A_TASK = ("task t", "t moves running", "t moves waiting_input")  # t1 t2 t3

HISTORY = [
    Case(
        name="a run that goes on is its history, and live",
        published=A_RUN,
        ask=Ask(of="run a"),
        comes=Comes(history="a1 a2 a3 a4 a5 a6", resumed=False),
    ),
    Case(
        name="what happens is told in order, once, with nothing of others between",
        published=A_RUN,
        ask=Ask(of="run a"),
        meanwhile=("a updates 2", "elsewhere 2", "a errs", "a updates 4"),
        comes=Comes(history="a1 a2 a3 a4 a5 a6", live="a7 a8 a9 a10 a11 a12 a13"),
    ),
    Case(
        name="a burst is told whole",
        published=("run a",),
        ask=Ask(of="run a", after="now"),
        meanwhile=("a updates 25",),
        comes=Comes(live=" ".join(f"a{n}" for n in range(3, 28))),
    ),
    Case(
        name="a run that has ended is its history, live and the end",
        published=OVER,
        ask=Ask(of="run a"),
        comes=Comes(history="a1 a2 a3 a4 a5 a6 a7", end="terminal completed"),
    ),
    Case(
        name="start is where a run begins",
        published=OVER,
        ask=Ask(of="run a", after="start"),
        comes=Comes(history="a1 a2 a3 a4 a5 a6 a7", end="terminal completed", resumed=False),
    ),
    Case(
        name="the feed begins now, and tells of all runs",
        published=A_RUN,
        ask=Ask(of="runs"),
        meanwhile=("a updates 1", "run b", "b failed", "a completed"),
        comes=Comes(live="a7 b1 b2 b3 a8"),
    ),
    Case(
        name="the feed continues from a position through all runs",
        published=("run a", "run b", "a updates 1", "b updates 1", "b completed"),
        ask=Ask(of="runs", after="a1"),
        meanwhile=("a completed",),
        comes=Comes(history="a2 b1 b2 a3 b3 b4", live="a4", resumed=True),
    ),
    Case(
        name="a feed of some runs leaves out the others, and outlives those it has",
        published=("run a", "run b", "run c", "b updates 2", "c completed"),
        ask=Ask(of="runs a c", after="a0"),
        meanwhile=("b completed", "a failed", "elsewhere 1"),
        comes=Comes(history="a1 a2 c1 c2 c3", live="a3"),
    ),
]

ENDS = [
    *(
        Case(
            name=f"a run that is {status} meanwhile ends its stream",
            published=("run a", "a updates 1"),
            ask=Ask(of="run a"),
            meanwhile=(f"a {status}",),
            comes=Comes(history="a1 a2 a3", live="a4", end=f"terminal {status}"),
        )
        for status in ("completed", "failed", "cancelled", "timed_out")
    ),
    Case(
        name="the end comes also where types hide the event that makes it",
        published=("run a", "a updates 1"),
        ask=Ask(of="run a", types="node_update"),
        meanwhile=("a updates 1", "a failed"),
        comes=Comes(history="a3", live="a4", end="terminal failed"),
    ),
    Case(
        name="a task that is over ends its stream",
        published=("task t",),
        ask=Ask(of="task t"),
        meanwhile=("t moves succeeded",),
        comes=Comes(history="t1", live="t2", end="terminal succeeded"),
    ),
    Case(
        name="a task that is deleted meanwhile ends its stream without a word about it",
        published=("task t",),
        ask=Ask(of="task t"),
        meanwhile=("t deleted",),
        comes=Comes(history="t1", end="access_revoked", then_refused=404),
    ),
    Case(
        name="max_ticks=1 is the current snapshot and the end",
        published=A_TASK,
        ask=Ask(of="task t", more={"max_ticks": 1}),
        comes=Comes(history="t3", end="max_ticks"),
    ),
    Case(
        name="who comes back after the end with nothing left is told not to",
        published=OVER,
        ask=Ask(of="run a", after="a7"),
        comes=Comes(over=True, end="terminal completed"),
    ),
    Case(
        name="the same by Last-Event-ID",
        published=OVER,
        ask=Ask(of="run a", after="a7", by_header=True),
        comes=Comes(over=True, end="terminal completed"),
    ),
    Case(
        name="who wants only what comes, of a run that is over, is told not to come back",
        published=OVER,
        ask=Ask(of="run a", after="now"),
        comes=Comes(over=True, end="terminal completed"),
    ),
    Case(
        name="where types show nothing of what is left, nothing is left",
        published=OVER,
        ask=Ask(of="run a", after="a6", types="error,node_*"),
        comes=Comes(over=True, end="terminal completed"),
    ),
    Case(
        name="who comes back after the end with the end unseen gets it",
        published=OVER,
        ask=Ask(of="run a", after="a6"),
        comes=Comes(history="a7", end="terminal completed", resumed=True),
    ),
]


def resuming() -> Iterator[Case]:
    """At every position of what may be asked for, by parameter and by header."""
    events = [f"a{number}" for number in range(1, 8)]
    for place in range(7):
        rest = " ".join(events[place:])
        for by_header in (False, True):
            yield Case(
                name=f"resuming after event {place} of 7 brings the rest{', by Last-Event-ID' if by_header else ''}",
                published=OVER,
                ask=Ask(of="run a", after=f"a{place}", by_header=by_header),
                comes=Comes(history=rest, end="terminal completed", resumed=True),
            )
    for place in range(7):
        rest = " ".join(event for event in events[place:6] if event in ("a3", "a4", "a5"))
        yield Case(
            name=f"resuming after event {place} where types hide most of them",
            published=A_RUN,
            ask=Ask(of="run a", after=f"a{min(place, 6)}", types="node_update"),
            meanwhile=("a errs", "a updates 1"),
            comes=Comes(history=rest, live="a8", resumed=True),
        )
    mixed = ["a1", "a2", "b1", "b2", "a3", "b3", "b4", "a4"]
    for place, after in enumerate(["a0", *mixed]):
        yield Case(
            name=f"resuming a feed after event {place} of {len(mixed)}",
            published=("run a", "run b", "a updates 1", "b updates 1", "b completed", "a updates 1"),
            ask=Ask(of="runs a b", after=after, by_header=place % 2 == 1),
            meanwhile=("a updates 1",),
            comes=Comes(history=" ".join(mixed[place:]), live="a5", resumed=True),
        )


FILTERS = [
    *(
        Case(
            name=f"types={types} shows what it names",
            published=OVER,
            ask=Ask(of="run a", types=types),
            comes=Comes(history=shown, end="terminal completed"),
        )
        for types, shown in [
            ("status", "a1 a2 a7"),
            ("node_update", "a3 a4 a5"),
            ("error", "a6"),
            ("node_*", "a3 a4 a5"),
            ("*r*", "a6"),
            ("status,error", "a1 a2 a6 a7"),
            ("*", "a1 a2 a3 a4 a5 a6 a7"),
        ]
    ),
    Case(
        name="a feed with types shows them of all runs",
        published=("run a", "run b"),
        ask=Ask(of="runs", after="a0", types="status"),
        meanwhile=("a updates 2", "b errs", "b completed", "a completed"),
        comes=Comes(history="a1 a2 b1 b2", live="b4 a5"),
    ),
    Case(
        name="a session shows a newcomer the conversation, and then all but its workers' chatter",
        published=A_SESSION,
        ask=Ask(of="session s"),
        meanwhile=("s worker:7 says llm_text_delta", "s queen says tool_call_completed", "s queen says custom.vote"),
        comes=Comes(history="s1 s6", live="s8"),
    ),
    Case(
        name="a session from the start shows all but its workers' chatter",
        published=A_SESSION,
        ask=Ask(of="session s", after="start"),
        comes=Comes(history="s1 s2 s4 s6"),
    ),
    Case(
        name="a session goes on from a position with everything",
        published=A_SESSION,
        ask=Ask(of="session s", after="s1"),
        meanwhile=("s worker:7 says execution_completed",),
        comes=Comes(history="s2 s4 s6", live="s7", resumed=True),
    ),
    Case(
        name="a session shows types of one's own where they are named",
        published=A_SESSION,
        ask=Ask(of="session s", after="start", types="custom.*"),
        meanwhile=("s queen says custom.vote",),
        comes=Comes(history="s5", live="s7"),
    ),
    Case(
        name="types of a session never let its workers' chatter in",
        published=A_SESSION,
        ask=Ask(of="session s", after="start", types="*"),
        comes=Comes(history="s1 s2 s4 s5 s6"),
    ),
    Case(
        name="a worker's stream has everything of that worker and nothing else",
        published=A_SESSION,
        ask=Ask(of="worker s 7"),
        meanwhile=("s worker:8 says llm_text_delta", "s queen says client_output_delta", "s worker:7 says node_retry"),
        comes=Comes(history="s3 s4", live="s9"),
    ),
    Case(
        name="a worker's stream can be narrowed to types",
        published=A_SESSION,
        ask=Ask(of="worker s 7", types="subagent_*"),
        comes=Comes(history="s4"),
    ),
    Case(
        name="a session shows its runs' own events where they are named",
        published=("session s", "run a in s", "a updates 1", "s queen says client_output_delta", "a completed"),
        ask=Ask(of="session s", after="start", types="status,client_*"),
        comes=Comes(history="s1 s2 s4 s5"),
    ),
    Case(
        name="a session that nobody has used is an empty stream",
        published=("session s",),
        ask=Ask(of="session s"),
        meanwhile=("s queen says client_output_delta",),
        comes=Comes(live="s1"),
    ),
]

RESETS = [
    *(
        Case(
            name=f"{what} is reset: {reason}, then all that is kept",
            published=OVER,
            ask=Ask(of="run a", after=after, by_header=by_header),
            comes=Comes(history=f"reset:{reason} a1 a2 a3 a4 a5 a6 a7", end="terminal completed", resumed=False),
        )
        for what, after, reason, by_header in [
            ("a position of another epoch", "other epoch", "epoch_changed", False),
            ("a Last-Event-ID of another epoch", "other epoch", "epoch_changed", True),
            ("a position ahead of the log", "ahead", "unknown_position", False),
            ("a Last-Event-ID ahead of the log", "ahead", "unknown_position", True),
            ("a Last-Event-ID that is no position", "malformed", "unknown_position", True),
        ]
    ),
    Case(
        name="a position before what is kept is reset: history_trimmed, then what is kept",
        published=(*OVER, "trimmed before a4"),
        ask=Ask(of="run a", after="trimmed"),
        comes=Comes(history="reset:history_trimmed a4 a5 a6 a7", end="terminal completed"),
    ),
    Case(
        name="the place right before what is kept needs no reset",
        published=(*OVER, "trimmed before a4"),
        ask=Ask(of="run a", after="a3"),
        comes=Comes(history="a4 a5 a6 a7", end="terminal completed", resumed=True),
    ),
    Case(
        name="the start after trimming is no reset",
        published=(*OVER, "trimmed before a4"),
        ask=Ask(of="run a", after="start"),
        comes=Comes(history="a4 a5 a6 a7", end="terminal completed"),
    ),
    Case(
        name="a feed too is reset, and gets what is kept of its runs",
        published=("run a", "run b", "a updates 1"),
        ask=Ask(of="runs a b", after="other epoch"),
        meanwhile=("b updates 1",),
        comes=Comes(history="reset:epoch_changed a1 a2 b1 b2 a3", live="b3"),
    ),
    Case(
        name="a log that is restored meanwhile resets who is connected, who then gets what is kept and goes on",
        published=("run a", "a updates 2"),
        ask=Ask(of="run a", after="a2"),
        meanwhile=("new epoch", "a updates 1", "a completed"),
        comes=Comes(history="a3 a4", live="reset:epoch_changed a1 a2 a3 a4 a5 a6", end="terminal completed"),
    ),
    Case(
        name="a task's reset is followed by the task as it is",
        published=A_TASK,
        ask=Ask(of="task t", after="other epoch"),
        meanwhile=("t moves succeeded",),
        comes=Comes(history="reset:epoch_changed t3", live="t4", end="terminal succeeded"),
    ),
]

TASKS = [
    Case(
        name="a task begins with its current snapshot, and no other",
        published=A_TASK,
        ask=Ask(of="task t"),
        comes=Comes(history="t3", resumed=False),
    ),
    Case(
        name="a task's change is told at once",
        published=A_TASK,
        ask=Ask(of="task t"),
        meanwhile=("t moves running",),
        comes=Comes(history="t3", live="t4"),
    ),
    Case(
        name="a task resumed at its newest snapshot tells nothing until a change",
        published=A_TASK,
        ask=Ask(of="task t", after="t3"),
        meanwhile=("t moves running",),
        comes=Comes(live="t4", resumed=True),
    ),
    Case(
        name="a task resumed further back tells the newest, and polled, each",
        published=A_TASK,
        ask=Ask(of="task t", after="t1"),
        comes=Comes(history="t3", polled="t2 t3", resumed=True),
    ),
    Case(
        name="a task with lossless=1 tells every snapshot",
        published=A_TASK,
        ask=Ask(of="task t", after="t1", lossless=True),
        meanwhile=("t moves running", "t moves failed"),
        comes=Comes(history="t2 t3", live="t4 t5", end="terminal failed"),
    ),
    Case(
        name="the board continues from a position with every snapshot and deletion",
        published=("task t", "task u", "t moves running"),
        ask=Ask(of="board", after="t1"),
        meanwhile=("u moves succeeded", "t deleted"),
        comes=Comes(history="u1 t2", live="u2 t3", resumed=True),
    ),
    Case(
        name="a task that is over and has been seen is told not to come back for",
        published=("task t", "t moves cancelled"),
        ask=Ask(of="task t", after="t2"),
        comes=Comes(over=True, end="terminal cancelled"),
    ),
]

REFUSALS = [
    Case(name=name, published=published, ask=ask, comes=Comes(refused=refused))
    for name, published, ask, refused in [
        ("a run that does not exist is 404", (), Ask(of="run nobody"), (404, "no such run")),
        ("a run that cannot exist is 404 in the same words", (), Ask(of="run impossible"), (404, "no such run")),
        ("a deleted run is 404", (*OVER, "a deleted"), Ask(of="run a"), (404, "no such run")),
        ("a deleted run is 404 at a position too", (*OVER, "a deleted"), Ask(of="run a", after="now"), (404, "")),
        ("a deleted task is 404", ("task t", "t deleted"), Ask(of="task t"), (404, "no such task")),
        ("a feed of a run that does not exist is 404", ("run a",), Ask(of="runs a nobody"), (404, "no run")),
        ("a malformed position is 400", A_RUN, Ask(of="run a", after="malformed"), (400, "<epoch>-<seq>")),
        ("a type that does not exist is 400", A_RUN, Ask(of="run a", types="bogus"), (400, "node_update")),
        ("a type of another service is 400", ("task t",), Ask(of="task t", types="node_update"), (400, "snapshot")),
        ("a glob that matches nothing is 400", A_RUN, Ask(of="runs", types="status,bog*"), (400, "bog*")),
        ("a parameter that does not exist is 400", A_RUN, Ask(of="run a", more={"typo": "1"}), (400, "typo")),
        ("an on_reset of one's own is 400", A_RUN, Ask(of="run a", more={"on_reset": "explode"}), (400, "on_reset")),
        ("an interval out of bounds is 400", ("task t",), Ask(of="task t", more={"interval": "0.01"}), (400, "")),
        *(
            (
                f"on_reset=error is 410 where there would be a reset: {after}",
                (*OVER, "trimmed before a4"),
                Ask(of="run a", after=after, on_reset="error"),
                (410, reason),
            )
            for after, reason in [
                ("other epoch", "epoch_changed"),
                ("ahead", "unknown_position"),
                ("trimmed", "history_trimmed"),
            ]
        ),
    ]
]

CASES = [*HISTORY, *ENDS, *resuming(), *FILTERS, *RESETS, *TASKS, *REFUSALS]
