"""The state machine of a stage as data: what is seen of it, and the state and action that follow.

docs/state-machine.md is made from these rows, and a test holds `decide` to each of them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One arrow: in the state `before`, `seen` leads to `after` by way of `action`."""

    before: str
    seen: str
    after: str
    action: str


ROWS = (
    Row("Pending", "it is the first stage that is not done", "Running", "make its Job"),
    Row("Pending", "the same, and spec.queueName is written", "Queued", "make its Job, suspended"),
    Row("Pending", "spec.suspend is true", "Suspended", "nothing"),
    Row("Pending", "another job makes the same in this workspace", "Waiting", "nothing"),
    Row("Pending", "another job has made the same in this workspace", "Reused", "take its result"),
    Row("Pending", "the API server refuses the Job", "Pending", "tell why, look again"),
    Row("Waiting", "the other job is gone, failed or suspended", "Running", "make its Job"),
    Row("Queued", "Kueue admits it", "Running", "nothing"),
    Row("Running", "its pod ended well", "Succeeded", "record the result"),
    Row("Running", "its pod found the result in the workspace", "Reused", "record the result"),
    Row("Running", "its pod failed, and the Job makes another", "Running", "tell why"),
    Row("Running", "the Job has given up", "Failed", "tell why and what to do"),
    Row("Running", "the Job was deleted by hand", "Running", "make its Job"),
    Row("Running", "spec.suspend is true", "Suspended", "suspend the Job: its pod saves"),
    Row("Running", "where it runs was edited, and no pod runs yet", "Pending", "delete the Job"),
    Row("Suspended", "spec.suspend is false again", "Running", "let the Job go on"),
    Row("Failed", "the spec was edited", "Pending", "delete the Job"),
    Row("Succeeded", "the Job is gone", "Succeeded", "nothing"),
    Row("Failed", "the Job is gone", "Failed", "nothing"),
    Row("Running", "what its pod needs was deleted, or its rights were edited", "Running", "make it again"),
    Row("Running", "its Job's numbers were edited by hand", "Running", "write them back"),
    Row("Running", "its Job ended well, and its pod is not seen to have ended", "Running", "look again"),
    Row("Running", "its image can't be pulled, and the settings now name another", "Pending", "delete the Job"),
    Row("Succeeded", "a later stage has found no result of it, and the spec was edited", "Pending", "delete the Job"),
)
