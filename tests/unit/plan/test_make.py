"""What a change of the spec means for the stages: what it reads is made anew, what it does not is kept."""

import pytest
import yaml

from finetune_jobs.contract import Stage
from finetune_operator.api import SpecError, parse_job
from finetune_operator.plan import make_plan

ALL = set(Stage)


def spec(**more) -> dict:
    return {
        "model": {"huggingFace": {"repo": "owner/name"}},
        "dataset": {"volume": {"claimName": "data"}, "format": "agent-flan", "template": "llama3_chat"},
    } | more


def plan_of(a_spec: dict, config_maps=None, name: str = "job"):
    document = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": a_spec,
    }
    return make_plan(parse_job(document), config_maps or {})


def made_anew(before: dict, after: dict) -> set[Stage]:
    old = {planned.stage: planned.digest for planned in plan_of(before).stages}
    return {planned.stage for planned in plan_of(after).stages if old.get(planned.stage) != planned.digest}


AFTER_TRAIN = {Stage.TRAIN, Stage.EXPORT, Stage.MERGE, Stage.EVALUATE, Stage.DEMO}
CHANGES = [
    ("the demo's title", {"demo": {"title": "other"}}, {Stage.DEMO}),
    ("the learning rate", {"training": {"learningRate": "1e-4"}}, AFTER_TRAIN),
    ("the seed of the shuffle", {"training": {"seed": 1}}, AFTER_TRAIN | {Stage.DATASET}),
    ("the row length", {"training": {"maxLength": 2048}}, AFTER_TRAIN | {Stage.DATASET}),
    ("the merged dtype", {"merge": {"dtype": "float16"}}, {Stage.MERGE, Stage.EVALUATE, Stage.DEMO}),
    ("what is merged onto", {"merge": {"baseWeights": "nf4"}}, {Stage.MERGE, Stage.EVALUATE, Stage.DEMO}),
    ("the merge as it always was", {"merge": {"baseWeights": "original"}}, set()),
    ("fp8", {"training": {"fp8": True}}, AFTER_TRAIN),
    ("fp8, turned off", {"training": {"fp8": False}}, set()),
    ("the prompts", {"evaluation": {"prompts": "two-tools-react"}}, {Stage.EVALUATE, Stage.DEMO}),
    ("the gate", {"evaluation": {"minimumValidCalls": "0.8"}}, set()),
    ("how often training saves", {"training": {"checkpoint": {"everySteps": 7}}}, set()),
    ("the recipe's own value, written out", {"training": {"epochs": 3}}, set()),
    ("where pods run", {"stages": {"train": {"nodeSelector": {"gpu": "h200"}}}}, set()),
    ("the workspace's size", {"storage": {"size": "1Ti"}}, set()),
    ("the base model", {"model": {"huggingFace": {"repo": "owner/other"}}}, ALL),
]


@pytest.mark.parametrize(("change", "expected"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_change_touches_the_stages_that_read_it(change, expected):
    assert made_anew(spec(), spec(**change)) == expected


def test_the_jobs_name_is_in_no_digest():
    one, other = plan_of(spec(), name="one"), plan_of(spec(), name="other")
    assert [p.digest for p in one.stages] == [p.digest for p in other.stages]


def test_every_stage_comes_after_what_it_needs():
    seen: set[Stage] = set()
    for planned in plan_of(spec()).stages:
        assert set(planned.needs) <= seen
        seen.add(planned.stage)
    assert seen == ALL


def test_a_ready_adapter_skips_dataset_and_training():
    adapter = {"volume": {"claimName": "share", "path": "iter_2316_hf"}, "template": "llama3_chat"}
    plan = plan_of({"model": spec()["model"], "adapter": adapter})
    assert [p.stage for p in plan.stages] == [Stage.MODEL, Stage.EXPORT, Stage.MERGE, Stage.EVALUATE, Stage.DEMO]
    assert plan.of(Stage.EXPORT).request.adapter.volume.path == "iter_2316_hf"


def test_what_is_switched_off_is_not_planned():
    plan = plan_of(spec(demo={"enabled": False}, evaluation={"enabled": False}))
    assert plan.of(Stage.DEMO) is None
    assert plan.of(Stage.EVALUATE) is None
    assert plan.gate is None


def test_the_tutorials_recipe_is_the_default():
    request = plan_of(spec()).of(Stage.TRAIN).request
    assert (request.epochs, request.gradient_accumulation, request.learning_rate) == (3, 16, "2e-4")
    assert (request.lora.rank, request.lora.alpha, request.lora.dropout) == (64, 16, "0.1")


def test_what_is_written_in_part_has_the_rest_from_the_recipe():
    training = {"recipe": "qlora-small", "lora": {"rank": 32}, "checkpoint": {"keep": 3}}
    request = plan_of(spec(training=training)).of(Stage.TRAIN).request
    assert (request.lora.rank, request.lora.alpha, request.lora.dropout) == (32, 32, "0")
    assert (request.checkpoint_every, request.checkpoint_keep) == (12, 3)


OWN = {"training": {"config": {"configMapKeyRef": {"name": "mine", "key": "config.py"}}}}


def test_the_users_own_config_reaches_the_request_and_gets_plain_conversations():
    plan = plan_of(spec(**OWN), {"mine": {"config.py": "lr = 1"}})
    assert plan.of(Stage.TRAIN).request.config == "lr = 1"
    assert plan.of(Stage.DATASET).request.output == "messages"


@pytest.mark.parametrize(
    ("config_maps", "expected"),
    [({}, "there is no ConfigMap 'mine'"), ({"mine": {"other": ""}}, "no key 'config.py', it has other")],
)
def test_a_missing_config_map_is_named(config_maps, expected):
    with pytest.raises(SpecError, match=expected):
        plan_of(spec(**OWN), config_maps)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs = 1\nmodel = dict(\n", "'\\(' was never closed in line 2; correct that line"),
        ("lr = 1\0", "not Python"),
        ("lr = " + "-" * 100_000 + "1", "not Python"),
    ],
)
def test_a_config_that_is_not_python_is_told_before_anything_runs(text, expected):
    with pytest.raises(SpecError, match=expected):
        plan_of(spec(**OWN), {"mine": {"config.py": text}})


def test_own_prompts_come_from_a_config_map():
    source = {"evaluation": {"promptsFrom": {"configMapKeyRef": {"name": "p", "key": "k"}}}}
    prompts = yaml.safe_dump([{"question": "Who wrote it?", "tool": "ArxivSearch.x"}, {"question": "Hello"}])
    request = plan_of(spec(**source), {"p": {"k": prompts}}).of(Stage.EVALUATE).request
    assert [p.question for p in request.prompts] == ["Who wrote it?", "Hello"]
    with pytest.raises(SpecError, match="write a list of"):
        plan_of(spec(**source), {"p": {"k": "question: alone"}})


WRONG_PROMPTS = [
    ("question: alone", r"promptsFrom: write a list of \{question, tool, arguments\}"),
    ("- {question: 1}", r'promptsFrom\[0\].question: 1 is a number, .* write it in quotes: "1"'),
    ("- {question: 2024-13-01}", "promptsFrom: this is neither YAML nor JSON: month must be in 1..12"),
    ("- {question: !!timestamp soon}", "neither YAML nor JSON"),
    ("- {question: !!int ''}", "neither YAML nor JSON"),
    ("- {question: !!bool maybe}", "neither YAML nor JSON"),
    ("[" * 100_000, "neither YAML nor JSON"),
    ("9" * 5000, "neither YAML nor JSON"),
    ("- &one {question: Who}\n- *one\n", "an alias .* write it out"),
    ("- question: &q Who?\n" + "- question: *q\n" * 10_000, "10001 prompts; write at most 10000"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG_PROMPTS, ids=[w[0][:24] for w in WRONG_PROMPTS])
def test_prompts_that_cant_be_taken_are_told(text, expected):
    source = {"evaluation": {"promptsFrom": {"configMapKeyRef": {"name": "p", "key": "k"}}}}
    with pytest.raises(SpecError, match=expected):
        plan_of(spec(**source), {"p": {"k": text}})


def test_each_wrong_prompt_is_a_problem_of_its_own():
    source = {"evaluation": {"promptsFrom": {"configMapKeyRef": {"name": "p", "key": "k"}}}}
    with pytest.raises(SpecError) as raised:
        plan_of(spec(**source), {"p": {"k": "- {tool: x}\n" * 300}})
    assert len(raised.value.problems) == 300


def test_a_deepspeed_config_must_be_a_json_object():
    source = {"training": {"deepspeedConfig": {"configMapKeyRef": {"name": "d", "key": "k"}}}}
    assert plan_of(spec(**source), {"d": {"k": "{}"}}).of(Stage.TRAIN).request.deepspeed == "custom"
    for text in ("{", "[" * 100_000, "9" * 5000):
        with pytest.raises(SpecError, match="this is not JSON"):
            plan_of(spec(**source), {"d": {"k": text}})
