"""What pydantic takes the API server takes, and the other way round; what is taken can be planned, or says why not.

Specs are drawn from the models and bent at random places. FINETUNE_FUZZ says how many (10,000 in `make test-fuzz`).
"""

import json
import os
import ssl
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.specs import JOB

from finetune_operator.api import SpecError, parse_job
from finetune_operator.plan import make_plan

COUNT = int(os.environ.get("FINETUNE_FUZZ", "300"))
NAMES = st.sampled_from(["a", "react-data", "A_b", "", "x" * 254, "-x", "a.b"])
NUMBERS = st.one_of(st.integers(-2, 100), st.sampled_from([2**31, 2**40, 10**6]))
RATES = st.sampled_from(["1e-3", "0", "0.1", "0.11", "2", "fast", "1e-400", "-1", "0.8", "1.5", 0.5, 2])
WEIGHTS = st.sampled_from(["nf4", "none", "original"])
SIZES = st.sampled_from(["1Gi", "0", "1.5Gi", "10GB", "4GB", "500MB", "", 5])
VALUES = st.one_of(
    NAMES,
    NUMBERS,
    RATES,
    SIZES,
    WEIGHTS,
    st.booleans(),
    st.none(),
    st.just({}),
    st.just([]),
    st.lists(NAMES, max_size=3),
)
SOURCES = st.fixed_dictionaries(
    {},
    optional={
        "huggingFace": st.fixed_dictionaries({"repo": st.sampled_from(["a/b", "a", "a/b/c"])}),
        "git": st.fixed_dictionaries({"url": st.sampled_from(["https://example.com/m", "example.com", "ftp://a/b"])}),
        "volume": st.fixed_dictionaries({"claimName": NAMES}, optional={"path": st.sampled_from(["a/b", "/a", ""])}),
        "pypi": st.fixed_dictionaries({"requirement": st.sampled_from(["a==1", "a", "a>=1"])}),
        "sha256": st.sampled_from(["0" * 64, "0" * 63, "g" * 64]),
    },
)
PARTS = {
    "model": SOURCES,
    "adapter": SOURCES,
    "training": st.dictionaries(
        st.sampled_from(["recipe", "epochs", "maxLength", "batchSize", "gradientAccumulation", "learningRate", "gpus",
                         "warmupRatio", "lora", "quantization", "deepspeed", "nodes", "seed", "fast", "fp8",
                         "checkpoint"]),
        VALUES, max_size=4),
    "storage": st.dictionaries(
        st.sampled_from(["claimName", "size", "accessModes", "reclaimPolicy"]), VALUES, max_size=3),
    "evaluation": st.dictionaries(
        st.sampled_from(["enabled", "prompts", "minimumValidCalls", "turns", "maxNewTokens"]), VALUES, max_size=3),
    "demo": st.dictionaries(
        st.sampled_from(["enabled", "title", "replicas", "gpus", "tools", "ingress", "httpRoute"]), VALUES, max_size=3),
    "merge": st.dictionaries(st.sampled_from(["dtype", "baseWeights", "maxShardSize"]), VALUES, max_size=2),
    "suspend": VALUES,
    "ttlSecondsAfterFinished": VALUES,
    "queueName": VALUES,
    "unknown": VALUES,
}  # fmt: skip


@st.composite
def documents(draw):
    """The good job with up to three of its parts drawn anew."""
    document = yaml.safe_load(JOB)
    for name in draw(st.lists(st.sampled_from(sorted(PARTS)), max_size=3, unique=True)):
        document["spec"][name] = draw(PARTS[name])
    if "adapter" in document["spec"] and draw(st.booleans()):
        del document["spec"]["dataset"], document["spec"]["training"]
    return document


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


@settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(document=documents())
def test_both_take_and_refuse_the_same(server, document):
    try:
        job, said = parse_job(document), None
    except SpecError as error:
        job, said = None, str(error)
    refusal = server.refusal(document)
    assert (said is None) == (refusal is None), (document["spec"], said, refusal)
    if job is None:
        assert refusal
        return
    make_plan(job, {})
