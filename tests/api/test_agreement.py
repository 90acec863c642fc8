"""What pydantic takes the API server takes, and the other way round; what is taken can be planned, or says why not.

Specs are drawn from the CRD's own schema and bent at random places. FINETUNE_FUZZ says how many (10,000 in
`make test-fuzz`). Each limit of each field is tried at its edge besides.
"""

import json
import os
import ssl
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from tests.api.bent import FIELDS, documents, put
from tests.api.drawn import edges
from tests.specs import JOB

from finetune_operator.api import SpecError, parse_job
from finetune_operator.api.pods import Stages
from finetune_operator.plan import make_plan

COUNT = int(os.environ.get("FINETUNE_FUZZ", "300"))


class Server:
    """Server-side dry runs with strict field validation."""

    def __init__(self, plane):
        context = ssl.create_default_context(cafile=str(plane.folder / "certificates" / "apiserver.crt"))
        self.opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
        self.headers = {"Authorization": f"Bearer {plane.token}", "Content-Type": "application/json"}
        path = "/apis/finetune.dev/v1alpha1/namespaces/default/finetunejobs?dryRun=All&fieldValidation=Strict"
        self.url = plane.url + path

    def refusal(self, document):
        """The API server's message; None where it takes the object."""
        request = Request(self.url, json.dumps(document).encode(), self.headers, method="POST")
        try:
            with self.opener.open(request, timeout=30):
                return None
        except HTTPError as error:
            body = json.loads(error.read())
            if error.code not in {400, 422}:
                raise AssertionError(body) from error
            return body["message"]


@pytest.fixture(scope="module")
def server(plane):
    return Server(plane)


def judged(server, document):
    """The job where both take it; None where both refuse it. Anything else is a disagreement."""
    try:
        job, said = parse_job(document), None
    except SpecError as error:
        job, said = None, str(error)
    refusal = server.refusal(document)
    assert (said is None) == (refusal is None), (document["spec"], said, refusal)
    assert job is not None or refusal
    return job


@settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(document=documents())
def test_both_take_and_refuse_the_same(server, document):
    job = judged(server, document)
    assert job is None or says_what_is_missing(job)


def says_what_is_missing(job):
    """Whether it is planned, or tells that the ConfigMaps that it names are not there."""
    try:
        return make_plan(job, {}) is not None
    except SpecError as error:
        return "there is no ConfigMap" in str(error)


SAME = ("adapter", "dataset", *(f"stages.{stage}" for stage in Stages.model_fields if stage != "train"))
"""Fields whose like are tried elsewhere."""
LIMITED = {
    ".".join(path): schema
    for path, schema in FIELDS.items()
    if not ".".join(path).startswith(SAME) and list(edges(schema))
}


@pytest.mark.parametrize("path", LIMITED)
def test_both_have_the_same_limits(server, path):
    for value in edges(LIMITED[path]):
        document = yaml.safe_load(JOB)
        put(document["spec"], tuple(path.split(".")), value)
        judged(server, document)
