"""Every reason of the operator's own, in conditions, stages and Events. Stages add theirs (contract.Failure).

A reason is stable: scripts key on it.
"""

# The job
SUCCEEDED = "Succeeded"
RUNNING = "Running"
WAITING_TO_START = "WaitingToStart"
SUSPENDED = "Suspended"
NOT_SUSPENDED = "NotSuspended"
STAGE_FAILED = "StageFailed"
NOTHING_FAILED = "NothingFailed"
SPEC_UNUSABLE = "SpecUnusable"
NAME_TAKEN = "NameTaken"
CLAIM_DIFFERS = "ClaimDiffers"
QUOTA_EXCEEDED = "QuotaExceeded"
REFUSED = "Refused"
OPERATOR_FAILED = "OperatorFailed"

# A stage
STARTED = "Started"
QUEUED = "QueuedByKueue"
WAITS_FOR_PEER = "WaitsForAnotherJob"
TAKEN_FROM_PEER = "TakenFromAnotherJob"
REUSED = "Reused"
RETRYING = "Retrying"
RESULT_LOST = "ResultLost"
NOT_PLANNED = "NotPlanned"

# The demo
DEMO_AVAILABLE = "Available"
DEMO_STARTING = "Starting"
SCALED_TO_ZERO = "ScaledToZero"
DEMO_DISABLED = "Disabled"
LAST_GOOD_MODEL = "LastGoodModel"
EVALUATION_UNREADABLE = "EvaluationUnreadable"

# What pods show (failures.py)
PODS_NOT_CREATED = "PodsNotCreated"
UNSCHEDULABLE = "Unschedulable"
GPU_UNSCHEDULABLE = "GpuUnschedulable"
IMAGE_PULL_FAILED = "ImagePullFailed"
