"""A pass that the operator fails over: the job's owner is told, and it is tried again until it succeeds."""

import asyncio
import json
from copy import deepcopy

import pytest
import yaml
from tests.specs import JOB
from tests.unit.cluster.bodies import NAME, NAMESPACE, fine_tune_job

from finetune_operator.cluster.api import ApiError, ApiUnreachable
from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.kinds import FINE_TUNE_JOBS
from finetune_operator.cluster.outline import Outlines
from finetune_operator.cluster.queue import KeyQueue
from finetune_operator.cluster.reconcile import Reconciler
from finetune_operator.cluster.run import Worker, pause_after
from finetune_operator.cluster.settings import Settings
from finetune_operator.cluster.tell import Teller

KEY = (NAMESPACE, NAME)
SPEC = yaml.safe_load(JOB)["spec"]


class OneJob:
    """An API server that holds one FineTuneJob, and takes whatever is made."""

    def __init__(self, **more):
        self.body = fine_tune_job(deepcopy(SPEC), **more)
        self.writes = []

    async def merge(self, kind, _namespace, _name, body, *, sub=""):
        assert (kind, sub) == (FINE_TUNE_JOBS, "/status")
        assert body["metadata"]["resourceVersion"] == self.body["metadata"]["resourceVersion"]
        self.writes.append(body["status"])
        status = {**self.body.get("status", {}), **body["status"]}
        version = str(int(self.body["metadata"]["resourceVersion"]) + 1)
        meta = {**self.body["metadata"], "resourceVersion": version}
        self.body = {**self.body, "metadata": meta, "status": {k: v for k, v in status.items() if v is not None}}
        return deepcopy(self.body)

    async def create(self, _kind, _namespace, manifest):
        return manifest | {"metadata": manifest["metadata"] | {"uid": manifest["metadata"]["name"],
                           "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}}  # fmt: skip

    @property
    def conditions(self):
        return {c["type"]: c for c in self.body.get("status", {}).get("conditions", ())}


class Failing(Outlines):
    """Fails over each job as long as it holds an error."""

    def __init__(self, error):
        super().__init__(Settings().pods)
        self.error = error

    def of(self, text, config_maps):
        if self.error is not None:
            raise self.error
        return super().of(text, config_maps)


def passes(api, *errors):
    """One pass for each error, None for one that succeeds; gives the queue's timers."""

    async def work():
        cache, queue, outlines = Cache(), KeyQueue(), Failing(None)
        cache.put(FINE_TUNE_JOBS, api.body)
        worker = Worker(Reconciler(api, cache, queue, Teller(api), outlines), queue, {}, Settings().logs)
        waits = []
        for error in errors:
            outlines.error = error
            queue.forget_later(KEY)
            await worker.look_at(KEY)
            timer = queue._timers.get(KEY)
            waits.append(round(timer.when() - asyncio.get_running_loop().time()) if timer else None)
        return waits

    return asyncio.run(work())


def test_it_is_told_in_a_sentence_with_what_to_do():
    api = OneJob()
    passes(api, KeyError("steps\nand more"))
    told = api.conditions["Unforeseen"]
    assert (told["status"], told["reason"], told["observedGeneration"]) == ("True", "OperatorFailed", 1)
    assert told["message"].startswith("The operator failed on this job: KeyError: ")
    assert "report it with the operator's log, `kubectl -n finetune-system logs deployment/" in told["message"]
    assert "\n" not in told["message"]


def test_it_is_tried_again_later_each_time_and_written_once():
    api = OneJob()
    assert passes(api, *[KeyError("steps")] * 7) == [1, 2, 4, 8, 16, 30, 30]
    assert len(api.writes) == 1


def test_after_a_day_of_failures_it_is_still_tried_again():
    assert pause_after(5000) == pause_after(50) == 30


def test_a_pass_that_succeeds_takes_it_away():
    api = OneJob()
    passes(api, KeyError("steps"), None)
    assert "Unforeseen" not in api.conditions
    assert api.conditions["Ready"]["status"] == "False"


def test_a_pass_that_finds_the_spec_unusable_takes_it_away():
    api = OneJob()
    passes(api, KeyError("steps"))
    del api.body["spec"]["model"]
    passes(api, None)
    assert "Unforeseen" not in api.conditions
    assert api.conditions["Failed"]["reason"] == "SpecUnusable"


def test_nothing_else_of_the_status_is_touched():
    ready = {"type": "Ready", "status": "False", "observedGeneration": 1, "reason": "Running", "message": "train",
             "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
    status = {"observedGeneration": 0, "stage": "train", "conditions": [ready], "unreadable": {}}
    api = OneJob(status=status)
    passes(api, KeyError("steps"))
    assert {k: v for k, v in api.body["status"].items() if k != "conditions"} == {
        k: v for k, v in status.items() if k != "conditions"
    }


REFUSED = ApiError(403, "Forbidden", "configmaps is forbidden")


@pytest.mark.parametrize(
    ("errors", "told"),
    [([REFUSED] * 2, False), ([REFUSED] * 3, True), ([ApiUnreachable("GET /")] * 9, False)],
    ids=["twice", "thrice", "away"],
)
def test_the_api_servers_errors_are_told_where_they_stay(errors, told):
    api = OneJob()
    passes(api, *errors)
    assert ("Unforeseen" in api.conditions) is told


def test_a_message_without_end_is_cut():
    api = OneJob()
    passes(api, ValueError("x" * 1_000_000))
    assert len(json.dumps(api.conditions["Unforeseen"])) < 1000
