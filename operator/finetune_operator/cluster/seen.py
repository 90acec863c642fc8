"""From objects as the API server sends them to the few values that are kept of each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from finetune_jobs.contract import PROGRESS_KEY
from finetune_operator.api import KIND
from finetune_operator.cluster.queue import Key
from finetune_operator.cluster.report import Report, report_of
from finetune_operator.lifecycle.observed import Pod, StageJob
from finetune_operator.manifests.names import (
    APPLIED,
    CONTAINER,
    DIGEST_LABEL,
    IMAGE,
    JOB_LABEL,
    PLACEMENT,
    QUEUE_LABEL,
    STAGE_LABEL,
)

Body = Mapping[str, Any]

LIMITS = ("parallelism", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
"""Fields of a Job's spec that may be edited by hand."""
LONGEST_TROUBLE = 300
"""Characters of what a Deployment says of pods that it can't make."""
SPEC_METADATA = ("name", "namespace", "uid")


@dataclass(frozen=True, slots=True)
class Record:
    """A FineTuneJob, kept as text: a thousand of them as dicts would cost ten times the memory."""

    uid: str
    version: int
    generation: int
    text: bytes
    """The object without its status and bookkeeping: it changes only when the spec does."""
    status: bytes
    claim: str
    """Name of the workspace's claim."""
    deleting: bool
    standing: Mapping[str, tuple[str, str]]
    """Stage -> digest and state, as recorded in status."""


@dataclass(frozen=True, slots=True)
class Child:
    """An object of ours other than a Job or a pod."""

    uid: str
    owner: str
    """uid of its FineTuneJob; empty where it has none."""
    version: str
    generation: int
    applied: str
    deleting: bool
    demo: "DemoPods | None" = None
    report: Report | None = None
    rights: str = ""
    """What a Role or RoleBinding grants, and to whom."""


@dataclass(frozen=True, slots=True)
class DemoPods:
    """What a Deployment says of its pods."""

    revision: str
    replicas: int
    """Wanted."""
    available: int
    settled: bool
    """The newest revision alone stands, all of it answering."""
    trouble: str
    """Why it can't make its pods, such as a quota."""


def parent_key(body: Body) -> Key | None:
    meta = body["metadata"]
    name = (meta.get("labels") or {}).get(JOB_LABEL)
    return (meta["namespace"], name) if name else None


def owner_uid(body: Body, kind: str) -> str:
    for reference in body["metadata"].get("ownerReferences") or ():
        if reference.get("controller") and reference.get("kind") == kind:
            return str(reference["uid"])
    return ""


def time_of(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def record_of(body: Body) -> Record:
    meta = body["metadata"]
    kept = {name: meta[name] for name in SPEC_METADATA if name in meta}
    bare = {"metadata": kept} | {name: body[name] for name in body if name not in {"metadata", "status"}}
    storage = (body.get("spec") or {}).get("storage") or {}
    stages = (body.get("status") or {}).get("stages") or ()
    return Record(
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        generation=int(meta.get("generation", 0)),
        text=json.dumps(bare, separators=(",", ":")).encode(),
        status=json.dumps(body.get("status") or {}, separators=(",", ":")).encode(),
        claim=str(storage.get("claimName") or f"{meta['name']}-workspace"),
        deleting="deletionTimestamp" in meta,
        standing={str(s.get("name")): (str(s.get("digest")), str(s.get("state"))) for s in stages},
    )


def job_of(body: Body) -> StageJob:
    meta, spec, status = body["metadata"], body["spec"], body.get("status") or {}
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or () if c["status"] == "True"}
    failed = conditions.get("Failed") or conditions.get("FailureTarget") or {}
    return StageJob(
        name=meta["name"],
        uid=meta["uid"],
        stage=labels.get(STAGE_LABEL, ""),
        digest=labels.get(DIGEST_LABEL, ""),
        placement=annotations.get(PLACEMENT, ""),
        created_at=time_of(meta["creationTimestamp"]) or datetime.now(UTC),
        suspended=bool(spec.get("suspend")),
        queued=QUEUE_LABEL in labels,
        failed=status.get("failed") or 0,
        complete="Complete" in conditions or "SuccessCriteriaMet" in conditions,
        gave_up=str(failed.get("reason", "")),
        gave_up_message=str(failed.get("message", "")),
        started_at=time_of(status.get("startTime")),
        finished_at=time_of(status.get("completionTime") or failed.get("lastTransitionTime")),
        deleting="deletionTimestamp" in meta,
        nodes=spec.get("completions") or 1,
        limits={name: spec[name] for name in LIMITS if name in spec},
        image=annotations.get(IMAGE, ""),
    )


def pod_of(body: Body) -> Pod:
    status = body.get("status") or {}
    container: Body = next((c for c in status.get("containerStatuses") or () if c.get("name") == CONTAINER), {})
    state = container.get("state") or {}
    # A pod of the demo is started again and again: how it ended is its last state then.
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    waits = state.get("waiting") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    return Pod(
        name=body["metadata"]["name"],
        phase=status.get("phase", "Pending"),
        reason=status.get("reason") or "",
        exit_code=ended.get("exitCode"),
        ended_by=ended.get("reason") or "",
        said=(ended.get("message") or "")[:4096],
        waits=waits.get("reason") or "",
        waits_message=(waits.get("message") or "")[:300],
        unschedulable=str(scheduled.get("message", ""))[:300] if scheduled.get("reason") == "Unschedulable" else "",
        disrupted=(conditions.get("DisruptionTarget") or {}).get("status") == "True",
        finished_at=time_of(ended.get("finishedAt")),
        uid=body["metadata"]["uid"],
        created=body["metadata"]["creationTimestamp"],
    )


def child_of(body: Body) -> Child:
    meta, spec, data = body["metadata"], body.get("spec") or {}, body.get("data") or {}
    return Child(
        uid=meta["uid"],
        owner=owner_uid(body, KIND),
        version=meta["resourceVersion"],
        generation=int(meta.get("generation") or 0),
        applied=(meta.get("annotations") or {}).get(APPLIED, ""),
        deleting="deletionTimestamp" in meta,
        demo=demo_of(body) if "selector" in spec and "template" in spec else None,
        report=report_of(data) if PROGRESS_KEY in data else None,
        rights=rights_of(body),
    )


def rights_of(body: Body) -> str:
    """Empty for what grants nothing. The server writes the group of a subject, which is empty for an account."""
    return (
        json.dumps([body.get("rules"), body.get("subjects")], sort_keys=True)
        if "rules" in body or "subjects" in body
        else ""
    )


def demo_of(body: Body) -> DemoPods:
    meta, spec, status = body["metadata"], body["spec"], body.get("status") or {}
    wanted, available = spec.get("replicas", 1), status.get("availableReplicas") or 0
    seen = (status.get("observedGeneration") or 0) >= (meta.get("generation") or 0)
    alone = (status.get("updatedReplicas") or 0) == wanted == (status.get("replicas") or 0)
    revision = (meta.get("labels") or {}).get(DIGEST_LABEL, "")
    refused = (c for c in status.get("conditions") or () if c["type"] == "ReplicaFailure" and c["status"] == "True")
    trouble = next((str(condition.get("message", ""))[:LONGEST_TROUBLE] for condition in refused), "")
    return DemoPods(revision, wanted, available, seen and alone and available >= wanted, trouble)
