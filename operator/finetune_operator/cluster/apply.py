"""Carries a decision out: makes, suspends, removes, in an order in which a kill between any two calls loses nothing."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_jobs.contract import Failure, Stage
from finetune_operator.api import KIND
from finetune_operator.cluster.api import CONFLICT, NOT_FOUND, Api, ApiError
from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.kinds import CLAIMS, DEMO_KINDS, DEPLOYMENTS, JOBS, Kind, kind_of
from finetune_operator.cluster.observe import Look, differs, extra_demo_objects, fingerprint, unverified
from finetune_operator.cluster.seen import child_of, owner_uid, parent_key, rights_of
from finetune_operator.lifecycle.observed import Decision, Make, Want
from finetune_operator.lifecycle.reasons import CLAIM_DIFFERS, NAME_TAKEN, QUOTA_EXCEEDED, REFUSED
from finetune_operator.manifests.demo import demo_objects
from finetune_operator.manifests.job import rendezvous_service, stage_job
from finetune_operator.manifests.names import Manifest, demo_name, with_applied
from finetune_operator.manifests.pod import Surroundings
from finetune_operator.manifests.progress import progress_objects
from finetune_operator.manifests.requests import requests_map
from finetune_operator.manifests.workspace import workspace_claim

FORBIDDEN, INVALID, TOO_LARGE = 403, 422, 413
USERS_TO_MEND = {FORBIDDEN, INVALID, TOO_LARGE, 400}
"""Answers that will stay the same until somebody changes something."""
NO_ADDRESS_LEFT = "range is full"
"""Of the API server's answer 500 where a Service can't get an address (ErrFull of its ipallocator)."""


class Refused(Exception):
    """What was to be made is refused, in a way that the job's owner has to know of."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True)
class Hands:
    """What acts for one job."""

    api: Api
    cache: Cache
    look: Look
    given: Surroundings

    @property
    def namespace(self) -> str:
        return self.look.key[0]

    async def carry_out(self, decision: Decision) -> None:
        """Refused where the API server will not take what was to be made."""
        before = [self.make(want) for want in decision.apply if want.make not in {Make.STAGE, Make.DEMO}]
        await asyncio.gather(*before)
        for want in decision.apply:
            if want.make in {Make.STAGE, Make.DEMO}:
                await self.make(want)
        for switch in decision.switch:
            await self.change(JOBS, switch.name, switch.uid, {"suspend": switch.suspend})
        for mend in decision.mend:
            await self.change(JOBS, mend.name, mend.uid, mend.limits)
        for doomed in decision.remove:
            await self.api.delete(JOBS, self.namespace, doomed.name, doomed.uid)
        if decision.drop_demo:
            await self.drop_demo()
        if decision.scale_demo is not None:
            await self.scale_demo(decision.scale_demo)

    async def make(self, want: Want) -> None:
        given = self.given
        planned = given.plan.of(want.stage) if want.stage else None
        match want.make:
            case Make.WORKSPACE:
                claim = workspace_claim(given.job)
                if claim is not None:
                    await self.make_claim(with_applied(claim))
            case Make.REQUESTS:
                await self.create(requests_map(given.job, given.plan))
            case Make.PROGRESS:
                for manifest in progress_objects(given.job):
                    await self.restore(manifest)
            case Make.STAGE if planned is not None:
                service = rendezvous_service(given, planned)
                if service is not None:
                    await self.create(service)
                await self.create(stage_job(given, planned))
            case Make.DEMO if planned is not None:
                await self.serve(demo_objects(given, planned))

    async def restore(self, manifest: Manifest) -> None:
        """Create it, unless it is known to stand as it was made: each call brings the job nearer to its end."""
        child = self.own().get((manifest["kind"], manifest["metadata"]["name"]))
        if child is None or child.deleting or child.rights != rights_of(manifest):
            await self.create(manifest)

    async def create(self, manifest: Manifest) -> None:
        """Once: what is ours already stays, what is another's is never touched."""
        kind = kind_of(manifest)
        try:
            body = await self.api.create(kind, self.namespace, manifest)
        except ApiError as error:
            if error.status != CONFLICT:
                raise explained(error, kind, manifest) from error
            body = await self.existing(kind, manifest)
        self.cache.put(kind, body)

    async def existing(self, kind: Kind, manifest: Manifest) -> Manifest:
        name = manifest["metadata"]["name"]
        body = await self.api.get(kind, self.namespace, name)
        ours = owner_uid(body, KIND) == self.look.record.uid
        kept_claim = kind is CLAIMS and parent_key(body) == self.look.key
        if not ours and not kept_claim:
            raise Refused(name_taken(kind, name))
        return await self.restored(kind, body, manifest) if ours else body

    async def restored(self, kind: Kind, body: Manifest, manifest: Manifest) -> Manifest:
        """With the labels by which it is ours, and the rights that it grants, if somebody has edited them."""
        meta = manifest["metadata"]
        labels = meta["labels"].items() <= (body["metadata"].get("labels") or {}).items()
        rights: Manifest = {name: manifest[name] for name in ("rules", "subjects") if name in manifest}
        if labels and all(body.get(name) == value for name, value in rights.items()):
            return body
        own = {"uid": body["metadata"]["uid"], "labels": meta["labels"]}
        return await self.api.merge(kind, self.namespace, meta["name"], {"metadata": own} | rights)

    async def make_claim(self, manifest: Manifest) -> None:
        """A new claim, or the one that is there with the size and owner that the job now says.

        Refused where that has what no edit changes: a retained claim of an earlier job, or a mistake since corrected.
        """
        meta = manifest["metadata"]
        child = self.cache.children.get(self.look.key, {}).get((CLAIMS.kind, meta["name"]))
        if child is None:
            await self.create(manifest)
            return
        unlike = otherwise(await self.api.get(CLAIMS, self.namespace, meta["name"]), manifest)
        if unlike:
            raise Refused(claim_differs(meta["name"], unlike))
        patch = {
            "metadata": {
                "uid": child.uid,
                "annotations": meta["annotations"],
                "ownerReferences": meta.get("ownerReferences"),
            },
            "spec": {"resources": manifest["spec"]["resources"]},
        }
        try:
            self.cache.put(CLAIMS, await self.api.merge(CLAIMS, self.namespace, meta["name"], patch))
        except ApiError as error:
            raise explained(error, CLAIMS, manifest) from error

    async def verify_demo(self) -> None:
        """Apply once more what this operator has not applied itself."""
        planned = self.given.plan.of(Stage.DEMO)
        for manifest in demo_objects(self.given, planned) if planned else ():
            if unverified(self.cache, self.own(), manifest):
                await self.apply(manifest)

    async def apply(self, manifest: Manifest) -> None:
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        known = self.own().get((kind.kind, name))
        # With the uid of what we know, so that it is not made of a foreign one that has taken its place.
        said = {**manifest, "metadata": {**manifest["metadata"], "uid": known.uid}} if known else manifest
        try:
            body = await self.api.apply(kind, self.namespace, said, ours=known is not None)
        except ApiError as error:
            if error.status == CONFLICT and known is None:
                raise Refused(name_taken(kind, name)) from error
            raise explained(error, kind, manifest) from error
        self.cache.put(kind, body)
        self.cache.known_generation[body["metadata"]["uid"]] = fingerprint(kind, child_of(body))

    async def serve(self, manifests: tuple[Manifest, ...]) -> None:
        own = self.own()
        for manifest in manifests:
            if differs(self.cache, own, manifest):
                await self.apply(manifest)
        for kind_name, name in extra_demo_objects(own, manifests):
            kind = next(kind for kind in DEMO_KINDS if kind.kind == kind_name)
            await self.api.delete(kind, self.namespace, name, own[kind_name, name].uid)

    def own(self) -> dict[tuple[str, str], Any]:
        found = self.cache.children.get(self.look.key, {})
        return {name: child for name, child in found.items() if child.owner == self.look.record.uid}

    async def scale_demo(self, replicas: int) -> None:
        name = demo_name(self.look.key[1])
        await self.change(DEPLOYMENTS, name, self.own()[DEPLOYMENTS.kind, name].uid, {"replicas": replicas})

    async def change(self, kind: Kind, name: str, uid: str, spec: Mapping[str, Any]) -> None:
        """Some fields of an object's spec; one that is gone meanwhile is as good."""
        patch = {"metadata": {"uid": uid}, "spec": dict(spec)}
        try:
            self.cache.put(kind, await self.api.merge(kind, self.namespace, name, patch))
        except ApiError as error:
            if error.status not in {NOT_FOUND, CONFLICT}:
                raise explained(error, kind, {"metadata": {"name": name}}) from error

    async def drop_demo(self) -> None:
        """The Deployment last: while it stands, the next pass takes down what a kill has left."""
        own = self.own()
        for kind in reversed(DEMO_KINDS):
            for (found, name), child in own.items():
                if found == kind.kind and name.endswith("-demo"):
                    await self.api.delete(kind, self.namespace, name, child.uid)


def name_taken(kind: Kind, name: str) -> Failure:
    return Failure(
        reason=NAME_TAKEN,
        message=f"There is a {kind.kind} {name} that does not belong to this FineTuneJob; it is left as it is.",
        cure=f"Delete or rename that {kind.kind}, or give the FineTuneJob another name.",
    )


def otherwise(claim: Manifest, manifest: Manifest) -> list[str]:
    """Fields of spec.storage that the claim has otherwise; a class that the job leaves out is the cluster's choice."""
    fields = ("storageClassName", "accessModes")
    return [name for name in fields if manifest["spec"].get(name, claim["spec"].get(name)) != claim["spec"].get(name)]


def claim_differs(name: str, fields: list[str]) -> Failure:
    """`fields` of spec.storage."""
    said = " and ".join(f"spec.storage.{field}" for field in fields)
    return Failure(
        reason=CLAIM_DIFFERS,
        message=f"There is a PersistentVolumeClaim {name} with another {said}, which can't be changed in a claim.",
        cure=f"Write {said} as that claim has it, or delete the claim: it is made again, empty.",
    )


def explained(error: ApiError, kind: Kind, manifest: Manifest) -> Exception:
    """The API server's refusal with a cure; any other error as it is."""
    reason, cure = REFUSED, "Change what it names in the spec, or the policy that forbids it"
    problem = f"The API server refuses the {kind.kind}"
    if error.status == FORBIDDEN and "exceeded quota" in error.message:
        reason, cure = QUOTA_EXCEEDED, "Raise the ResourceQuota or remove what fills it"
        problem = f"The namespace's quota does not allow the {kind.kind}"
    elif NO_ADDRESS_LEFT in error.message:
        cure = "Delete Services, or add a ServiceCIDR to the cluster"
        problem = f"The cluster has no address left for the {kind.kind}"
    elif error.status == NOT_FOUND and kind.optional:
        cure = "Install the Gateway API or leave out spec.demo.httpRoute"
    elif error.status not in USERS_TO_MEND:
        return error
    message = f"{problem} {manifest['metadata']['name']}: {error.message[:500]}."
    return Refused(Failure(reason=reason, message=message, cure=f"{cure}; it is tried again by itself."))
