"""What /metrics tells."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()
STAGE_BUCKETS = (10, 30, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 48 * 3600)
"""Seconds."""

JOBS_BY_STAGE = Gauge(
    "finetune_jobs", "FineTuneJobs by the stage at work and its state.", ["stage", "state"], registry=REGISTRY
)
STAGE_SECONDS = Histogram(
    "finetune_stage_seconds",
    "Seconds from a stage's start to its end.",
    ["stage", "state"],
    buckets=STAGE_BUCKETS,
    registry=REGISTRY,
)
LOSS = Gauge("finetune_training_loss", "Latest loss of a training.", ["namespace", "name"], registry=REGISTRY)
TOKENS = Gauge(
    "finetune_training_tokens_per_second", "Latest speed of a training.", ["namespace", "name"], registry=REGISTRY
)
RECONCILE_SECONDS = Histogram(
    "finetune_reconcile_seconds",
    "Seconds of one pass over a job.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
    registry=REGISTRY,
)
RECONCILE_ERRORS = Counter("finetune_reconcile_errors", "Passes that ended in an error.", ["kind"], registry=REGISTRY)
QUEUE_DEPTH = Gauge("finetune_queue_depth", "Jobs that wait to be looked at.", registry=REGISTRY)
API_CALLS = Counter("finetune_api_calls", "API calls, watches apart.", ["method"], registry=REGISTRY)
LEADING = Gauge("finetune_leading", "1 where this operator holds the Lease.", registry=REGISTRY)
