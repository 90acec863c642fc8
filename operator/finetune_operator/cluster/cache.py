"""What the watches have told, in few bytes an object. Lost with the process, filled anew by the first lists."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter
from typing import Any

from finetune_operator.api import KIND
from finetune_operator.cluster.kinds import FINE_TUNE_JOBS, JOBS, PODS, SERVICES, Kind
from finetune_operator.cluster.queue import Key
from finetune_operator.cluster.seen import Child, Record, child_of, job_of, owner_uid, parent_key, pod_of, record_of
from finetune_operator.lifecycle.observed import Pod, StageJob

Body = dict[str, Any]
ChildKey = tuple[str, str]
"""Kind and name."""
Work = tuple[str, str, str, str]
"""Namespace, claim, stage and digest: what can be made once for several jobs."""


def pods_of(key: Key, body: Body) -> str:
    """What a pod is kept by: its Job's uid, or as one of the demo its FineTuneJob."""
    return owner_uid(body, "Job") or demo_group(key)


def demo_group(key: Key) -> str:
    """What the pods of a FineTuneJob's demo are kept by."""
    return "/".join(key)


class Cache:
    """Changed by `put` and `drop` alone; both say whose look is wanted."""

    def __init__(self) -> None:
        self.records: dict[Key, Record] = {}
        self.jobs: dict[Key, dict[str, tuple[str, StageJob]]] = defaultdict(dict)
        """By parent and name: the owner's uid and the Job."""
        self.pods: dict[str, dict[str, Pod]] = defaultdict(dict)
        """By `pods_of` and by name."""
        self.children: dict[Key, dict[ChildKey, Child]] = defaultdict(dict)
        self.versions: dict[str, int] = {}
        """resourceVersion by uid, pods apart: an answer to a call may be newer than the watch's next line."""
        self.reserved: dict[Work, Key] = {}
        """Work that a job is about to start a Job for."""
        self.known_generation: dict[str, str] = {}
        """By uid: version of a child as we last applied it."""
        self._mates: dict[tuple[str, str], set[Key]] = defaultdict(set)
        """Jobs by namespace and claim."""

    def put(self, kind: Kind, body: Body) -> set[Key]:
        meta = body["metadata"]
        version = int(meta["resourceVersion"])
        if version <= self.versions.get(meta["uid"], 0):
            return set()
        if kind is not PODS:
            self.versions[meta["uid"]] = version
        if kind is FINE_TUNE_JOBS:
            return self._put_record((meta["namespace"], meta["name"]), record_of(body))
        key = parent_key(body)
        if key is None:
            return set()
        return {key} if self._put_child(kind, key, body) else set()

    def _put_child(self, kind: Kind, key: Key, body: Body) -> bool:
        """Whether anything that matters has changed: most events of a Job are its controller's bookkeeping."""
        name = body["metadata"]["name"]
        if kind is PODS:
            pods, pod = self.pods[pods_of(key, body)], pod_of(body)
            changed = pods.get(name) != pod
            pods[name] = pod
        elif kind is JOBS:
            job = (owner_uid(body, KIND), job_of(body))
            changed = self.jobs[key].get(name) != job
            self.jobs[key][name] = job
        else:
            child, before = child_of(body), self.children[key].get((kind.kind, name))
            changed = before is None or kind is SERVICES or replace(before, version=child.version) != child
            self.children[key][kind.kind, name] = child
        return changed

    def _put_record(self, key: Key, record: Record) -> set[Key]:
        before = self.records.get(key)
        self.records[key] = record
        if before is not None and before.claim != record.claim:
            self._mates[key[0], before.claim].discard(key)
        mates = self._mates[key[0], record.claim]
        mates.add(key)
        if before is not None and before.standing == record.standing:
            return {key}
        return {key} | {mate for mate in mates if self._waits(mate)}

    def _waits(self, key: Key) -> bool:
        return any(state == "Waiting" for _, state in self.records[key].standing.values())

    def drop(self, kind: Kind, body: Body) -> set[Key]:
        """Forget an object; only if it is the very one that is known."""
        meta = body["metadata"]
        self.versions.pop(meta["uid"], None)
        self.known_generation.pop(meta["uid"], None)
        if kind is FINE_TUNE_JOBS:
            return self._drop_record((meta["namespace"], meta["name"]), meta["uid"])
        key = parent_key(body)
        if key is None:
            return set()
        if kind is PODS:
            self._drop_pod(pods_of(key, body), meta["name"], meta["uid"])
        elif kind is JOBS:
            self._drop_job(key, meta["name"], meta["uid"])
        else:
            found = self.children[key].get((kind.kind, meta["name"]))
            if found is not None and found.uid == meta["uid"]:
                del self.children[key][kind.kind, meta["name"]]
        if key not in self.records:
            self._forget_if_empty(key)
        return {key} | self._waiting_beside(key)

    def _drop_record(self, key: Key, uid: str) -> set[Key]:
        record = self.records.get(key)
        if record is None or record.uid != uid:
            return set()
        waiting = self._waiting_beside(key)
        del self.records[key]
        self._mates[key[0], record.claim].discard(key)
        if not self._mates[key[0], record.claim]:
            del self._mates[key[0], record.claim]
        self._forget_if_empty(key)
        return waiting - {key}

    def _drop_job(self, key: Key, name: str, uid: str) -> None:
        found = self.jobs[key].get(name)
        if found is not None and found[1].uid == uid:
            del self.jobs[key][name]
            self.pods.pop(uid, None)

    def _drop_pod(self, group: str, name: str, uid: str) -> None:
        found = self.pods[group].get(name)
        if found is not None and found.uid == uid:
            del self.pods[group][name]
        if not self.pods[group]:
            del self.pods[group]

    def _forget_if_empty(self, key: Key) -> None:
        for table in (self.jobs, self.children):
            if key in table and not table[key]:
                del table[key]

    def _waiting_beside(self, key: Key) -> set[Key]:
        record = self.records.get(key)
        mates = self._mates.get((key[0], record.claim), set()) if record else set()
        return {mate for mate in mates if mate != key and self._waits(mate)}

    def jobs_of(self, key: Key, uid: str) -> Iterator[StageJob]:
        """The FineTuneJob's own Jobs with their pods; one of another owner is none of ours."""
        for owner, job in self.jobs.get(key, {}).values():
            if owner == uid:
                pods = sorted(self.pods.get(job.uid, {}).values(), key=attrgetter("created"))
                yield replace(job, pods=tuple(pods))

    def pods_by_key(self) -> Iterator[tuple[Key, str, Pod]]:
        """Each pod with its FineTuneJob's key and what it is kept by; those of Jobs that are not known are left out."""
        groups = {demo_group(key): key for key in self.records}
        groups |= {job.uid: key for key, jobs in self.jobs.items() for _, job in jobs.values()}
        for group, pods in self.pods.items():
            if group in groups:
                yield from ((groups[group], group, pod) for pod in pods.values())

    def demo_pods(self, key: Key) -> tuple[Pod, ...]:
        return tuple(self.pods.get(demo_group(key), {}).values())

    def mates_of(self, key: Key) -> set[Key]:
        """Other jobs in the same workspace."""
        record = self.records[key]
        return self._mates[key[0], record.claim] - {key}
