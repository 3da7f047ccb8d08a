"""The agent event bus: what agents say in a session, or in a run that belongs to one.

The types and their delivery classes are fixed; beside the fields named here an event may carry others, which are kept
and sent as they came: what an agent has to say in detail is its own affair.
"""

from typing import Any, ClassVar

from shared.protocol.schema import Delivery, Event, LatestKey

WORKER_PREFIX = "worker:"


class AgentEvent(Event, frozen=True, kw_only=True, omit_defaults=True):
    """An event of a session, of a run, or of a run in a session. `stream_id` names who speaks: `queen`, `worker:7`."""

    open_fields: ClassVar[bool] = True

    session_id: str | None = None
    run_id: str | None = None
    stream_id: str | None = None
    node_id: str | None = None
    execution_id: str | None = None
    correlation_id: str | None = None
    data: dict[str, Any] | None = None


class ClientOutputDelta(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="client_output_delta"):
    """A piece of what the agent says to its user."""

    delivery: ClassVar[Delivery] = Delivery.SHEDDABLE

    text: str | None = None


class ClientInputRequested(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="client_input_requested"):
    """The agent waits for its user."""

    prompt: str | None = None
    options: list[Any] | None = None


class ClientInputReceived(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="client_input_received"):
    """The user has answered."""

    text: str | None = None


class LlmTextDelta(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="llm_text_delta"):
    """A piece of a model's answer."""

    delivery: ClassVar[Delivery] = Delivery.SHEDDABLE

    text: str | None = None
    model: str | None = None


class LlmTurnComplete(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="llm_turn_complete"):
    """A model has finished its turn."""

    model: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    stop_reason: str | None = None


class ToolCallStarted(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="tool_call_started"):
    """An agent calls a tool."""

    tool: str | None = None
    call_id: str | None = None


class ToolCallCompleted(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="tool_call_completed"):
    """A tool has answered."""

    tool: str | None = None
    call_id: str | None = None
    is_error: bool | None = None


class ExecutionStarted(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="execution_started"):
    """An execution has begun."""


class ExecutionCompleted(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="execution_completed"):
    """An execution has come to its end."""

    output: Any = None


class ExecutionFailed(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="execution_failed"):
    """An execution has failed."""

    error: str | None = None


class ExecutionPaused(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="execution_paused"):
    """An execution waits to be resumed."""

    reason: str | None = None


class NodeLoopStarted(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="node_loop_started"):
    """A node begins its loop."""

    max_iterations: int | None = None


class NodeLoopIteration(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="node_loop_iteration"):
    """A node begins another iteration."""

    iteration: int | None = None


class NodeLoopCompleted(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="node_loop_completed"):
    """A node has left its loop."""

    iterations: int | None = None


class NodeActionPlan(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="node_action_plan"):
    """What a node means to do."""

    plan: str | None = None


class NodeInternalOutput(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="node_internal_output"):
    """What a node says to itself."""

    delivery: ClassVar[Delivery] = Delivery.SHEDDABLE

    text: str | None = None


class NodeStalled(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="node_stalled"):
    """A node makes no progress."""

    reason: str | None = None


class NodeRetry(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="node_retry"):
    """A node tries again."""

    attempt: int | None = None
    error: str | None = None


class NodeToolDoomLoop(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="node_tool_doom_loop"):
    """A node calls the same tool again and again."""

    description: str | None = None


class GoalProgress(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="goal_progress"):
    """How far a goal has come; of each worker only the newest matters."""

    delivery: ClassVar[Delivery] = Delivery.LATEST
    latest_key: ClassVar[LatestKey] = "worker"

    progress: float | None = None


class ContextCompacted(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="context_compacted"):
    """A context was cut down."""

    tokens_before: int | None = None
    tokens_after: int | None = None


class ContextUsageUpdated(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="context_usage_updated"):
    """How full a context is; of each worker only the newest matters."""

    delivery: ClassVar[Delivery] = Delivery.LATEST
    latest_key: ClassVar[LatestKey] = "worker"

    tokens: int | None = None
    limit: int | None = None


class WorkerColonyLoaded(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="worker_colony_loaded"):
    """A colony of workers is loaded."""

    colony: str | None = None


class ColonyCreated(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="colony_created"):
    """A colony of workers was made."""

    colony: str | None = None


class CredentialsRequired(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="credentials_required"):
    """Work cannot go on without credentials."""

    name: str | None = None


class SubagentReport(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="subagent_report"):
    """What a worker reports to the one that sent it."""

    message: str | None = None


class QueenPhaseChanged(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="queen_phase_changed"):
    """The leading agent has entered another phase."""

    phase: str | None = None


class TriggerAvailable(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="trigger_available"):
    """A trigger can be activated."""

    trigger_id: str | None = None


class TriggerActivated(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="trigger_activated"):
    """A trigger is armed."""

    trigger_id: str | None = None


class TriggerDeactivated(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="trigger_deactivated"):
    """A trigger is not armed any more."""

    trigger_id: str | None = None


class TriggerFired(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="trigger_fired"):
    """A trigger has fired."""

    trigger_id: str | None = None


class TriggerRemoved(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="trigger_removed"):
    """A trigger is gone."""

    trigger_id: str | None = None


class TriggerUpdated(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="trigger_updated"):
    """A trigger has changed."""

    trigger_id: str | None = None


class WorkerGraphLoaded(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="worker_graph_loaded"):
    """A worker's graph is loaded."""

    graph: str | None = None


class Custom(AgentEvent, frozen=True, kw_only=True, omit_defaults=True, tag="custom.*"):
    """Any type that begins with `custom.`, the application's own. Critical: nobody said that it may be skipped."""


AGENT_TYPES: tuple[type[AgentEvent], ...] = (
    ClientOutputDelta,
    ClientInputRequested,
    ClientInputReceived,
    LlmTextDelta,
    LlmTurnComplete,
    ToolCallStarted,
    ToolCallCompleted,
    ExecutionStarted,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionPaused,
    NodeLoopStarted,
    NodeLoopIteration,
    NodeLoopCompleted,
    NodeActionPlan,
    NodeInternalOutput,
    NodeStalled,
    NodeRetry,
    NodeToolDoomLoop,
    GoalProgress,
    ContextCompacted,
    ContextUsageUpdated,
    WorkerColonyLoaded,
    ColonyCreated,
    CredentialsRequired,
    SubagentReport,
    QueenPhaseChanged,
    TriggerAvailable,
    TriggerActivated,
    TriggerDeactivated,
    TriggerFired,
    TriggerRemoved,
    TriggerUpdated,
    WorkerGraphLoaded,
    Custom,
)

# What a session's stream carries unless told.
DEFAULT_TYPES = tuple(
    str(event.__struct_config__.tag) for event in AGENT_TYPES if event not in (WorkerGraphLoaded, Custom)
)

# What is replayed to a client that brings no position: what makes visible messages or sets idempotent state.
REPLAYED_TYPES = (
    "client_output_delta",
    "execution_started",
    "client_input_requested",
    "client_input_received",
    "trigger_available",
    "trigger_activated",
    "trigger_deactivated",
    "trigger_removed",
    "trigger_updated",
)

# What of a worker's chatter reaches the session's own stream.
HEARD_FROM_WORKERS = ("subagent_report", "execution_completed", "execution_failed")
