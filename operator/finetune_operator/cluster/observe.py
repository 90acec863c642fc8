"""One look at a job: from the cache, and from the user's ConfigMaps, which are not watched."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from finetune_jobs.contract import Failure, Stage
from finetune_operator.api import FineTuneJob, SpecError
from finetune_operator.api.problems import problems_of
from finetune_operator.api.spec import ConfigMapText
from finetune_operator.api.status import StageState, Status
from finetune_operator.cluster.api import NOT_FOUND, Api, ApiError
from finetune_operator.cluster.cache import Cache, Work
from finetune_operator.cluster.kinds import CLAIMS, CONFIG_MAPS, DEPLOYMENTS, SERVICES, Kind, kind_of
from finetune_operator.cluster.outline import Outline, Outlines, kept_job
from finetune_operator.cluster.queue import Key
from finetune_operator.cluster.seen import Child, Record, rights_of
from finetune_operator.lifecycle.observed import Observed, Peer, Served
from finetune_operator.lifecycle.unusable import spec_failure
from finetune_operator.lifecycle.verdict import DONE
from finetune_operator.manifests.demo import demo_objects
from finetune_operator.manifests.job import job_limits
from finetune_operator.manifests.names import APPLIED, demo_name, progress_name, workspace_name
from finetune_operator.manifests.pod import Surroundings
from finetune_operator.manifests.progress import progress_objects
from finetune_operator.plan import Plan


@dataclass(frozen=True)
class Look:
    """What was seen, and what manifests are made from."""

    key: Key
    record: Record
    raw_status: Mapping[str, Any]
    status: Status
    seen: Observed | None
    """None where the spec can't even be read; `problem` says why."""
    given: Surroundings | None
    problem: Failure | None = None


async def observe(cache: Cache, api: Api, outlines: Outlines, key: Key) -> Look:
    record = cache.records[key]
    raw_status, status = json.loads(record.status), read_status(record.status)
    try:
        job = kept_job(record.text)
    except ValidationError as error:
        problem = spec_failure(problems_of(error, FineTuneJob))
        return Look(key, record, raw_status, status, None, None, problem)
    try:
        outline = outlines.of(record.text, await config_maps(api, job))
    except SpecError as error:
        seen = Observed(job, record.generation, status, None, spec_failure(error.problems))
        return Look(key, record, raw_status, status, seen, None)
    return Look(key, record, raw_status, status, look(cache, key, record, outline, status), outline.given)


def read_status(raw: bytes) -> Status:
    """What is recorded; nothing, where somebody has written into it what can't be read."""
    try:
        return Status.model_validate_json(raw)
    except ValidationError:
        return Status()


async def config_maps(api: Api, job: FineTuneJob) -> dict[str, dict[str, str]]:
    """Those that the spec names; one that is not there is left out, and the plan says so."""
    training, evaluation = job.spec.training, job.spec.evaluation
    texts = [training.config, training.deepspeed_config] if training else []
    names = {t.config_map_key_ref.name for t in (*texts, evaluation.prompts_from) if isinstance(t, ConfigMapText)}
    found = {}
    for name in sorted(names):
        try:
            body = await api.get(CONFIG_MAPS, job.metadata.namespace, name)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            continue
        found[name] = dict(body.get("data") or {})
    return found


def look(cache: Cache, key: Key, record: Record, outline: Outline, status: Status) -> Observed:
    given = outline.given
    job, plan = given.job, given.plan
    own = {name: child for name, child in cache.children.get(key, {}).items() if child.owner == record.uid}
    claim = cache.children.get(key, {}).get((CLAIMS.kind, workspace_name(job)))
    progress = own.get((CONFIG_MAPS.kind, progress_name(job.metadata.name)))
    train = plan.of(Stage.TRAIN)
    report = progress.report if progress and train and progress.report else None
    fresh = report if report and train and report.digest == train.digest else None
    return Observed(
        job=job,
        generation=record.generation,
        status=status,
        plan=plan,
        jobs={found.name: found for found in cache.jobs_of(key, record.uid)},
        names=outline.names,
        placements=outline.placements,
        gpus=outline.gpus,
        limits={p.stage: job_limits(given, p) for p in plan.stages},
        image=given.settings.trainer_image,
        workspace=outline.claim is None or claim is not None,
        workspace_stale=outline.claim is not None and claim is not None and claim.applied != outline.claim,
        requests=(CONFIG_MAPS.kind, outline.requests) in own,
        progress_ready=progress_ready(own, given),
        progress=fresh.progress if fresh else None,
        curve=fresh.curve if fresh else (),
        served=served(cache, key, own, given),
        demo_url=outline.demo_url,
        peers=peers(cache, key, record, plan),
    )


def progress_ready(own: Mapping[tuple[str, str], Child], given: Surroundings) -> bool:
    """All of it is there, and the rights are as they were made."""
    made = ((m["kind"], m["metadata"]["name"], rights_of(m)) for m in progress_objects(given.job))
    found = ((own.get((kind, name)), rights) for kind, name, rights in made)
    return all(child is not None and not child.deleting and child.rights == rights for child, rights in found)


def served(cache: Cache, key: Key, own: Mapping[tuple[str, str], Child], given: Surroundings) -> Served:
    name = demo_name(given.job.metadata.name)
    deployment = own.get((DEPLOYMENTS.kind, name))
    pods, planned = deployment.demo if deployment else None, given.plan.of(Stage.DEMO)
    if pods is None:
        return Served()
    stale, unsure = True, False
    if planned is not None and pods.revision == planned.digest:
        made = demo_objects(given, planned)
        stale = any(differs(cache, own, manifest) for manifest in made) or bool(extra_demo_objects(own, made))
        unsure = any(unverified(cache, own, manifest) for manifest in made)
    return Served(
        pods.revision,
        pods.settled,
        stale,
        unsure,
        answers=pods.available > 0,
        replicas=pods.replicas,
        pods=cache.demo_pods(key),
        name=name,
        trouble=pods.trouble,
    )


def differs(cache: Cache, own: Mapping[tuple[str, str], Child], manifest: dict[str, Any]) -> bool:
    """Missing, not as the job says, or edited since we applied it."""
    kind = kind_of(manifest)
    child = own.get((kind.kind, manifest["metadata"]["name"]))
    if child is None:
        return True
    edited = cache.known_generation.get(child.uid, fingerprint(kind, child)) != fingerprint(kind, child)
    return edited or child.applied != manifest["metadata"]["annotations"][APPLIED]


def unverified(cache: Cache, own: Mapping[tuple[str, str], Child], manifest: dict[str, Any]) -> bool:
    """It stands, but not by this operator's hand: what was edited before it started is not known."""
    child = own.get((manifest["kind"], manifest["metadata"]["name"]))
    return child is not None and child.uid not in cache.known_generation


def fingerprint(kind: Kind, child: Child) -> str:
    """Moves when the object's spec does. A Service has no generation."""
    return child.version if kind is SERVICES else str(child.generation)


def extra_demo_objects(own: Mapping[tuple[str, str], Child], made: tuple[dict[str, Any], ...]) -> list[tuple[str, str]]:
    """Ingress or HTTPRoute that the job no longer asks for."""
    wanted = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in made}
    name = made[0]["metadata"]["name"]
    return [k for k in own if k[1] == name and k[0] in {"Ingress", "HTTPRoute"} and k not in wanted]


def work_of(key: Key, record: Record, stage: Stage, digest: str) -> Work:
    return (key[0], record.claim, stage.value, digest)


def peers(cache: Cache, key: Key, record: Record, plan: Plan) -> dict[Stage, tuple[Peer, ...]]:
    """What other jobs in the same workspace do about this plan's stages."""
    found: dict[Stage, tuple[Peer, ...]] = {}
    mates = cache.mates_of(key)
    if not mates:
        return found
    for planned in plan.stages:
        seen = (peer(cache, mate, planned.stage, planned.digest) for mate in mates)
        found[planned.stage] = tuple(p for p in seen if p is not None)
        reserved = cache.reserved.get(work_of(key, record, planned.stage, planned.digest))
        if reserved is not None and reserved != key:
            found[planned.stage] += (Peer(reserved[1], wants=True),)
    return found


def peer(cache: Cache, mate: Key, stage: Stage, digest: str) -> Peer | None:
    record = cache.records[mate]
    standing = record.standing.get(stage.value)
    if standing is None or standing[0] != digest or standing[1] not in {state.value for state in DONE}:
        jobs = (j for j in cache.jobs_of(mate, record.uid) if j.stage == stage and j.digest == digest)
        # One that its user has suspended may stay so for ever; one that Kueue holds back is next in its queue.
        # One that has ended well counts until its owner has recorded it; of an earlier spec's nobody will.
        current = standing is not None and standing[0] == digest
        held = (j.gave_up or j.deleting or (j.suspended and not j.queued) or (j.over and not current) for j in jobs)
        works = not all(held)
        return Peer(mate[1], runs=True) if works else None
    status = read_status(record.status)
    result = next((s.result for s in status.stages if s.name is stage and s.state is not StageState.FAILED), None)
    return Peer(mate[1], result=result or {})
