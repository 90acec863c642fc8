"""`finetune run` around fake stages: what is made, what is taken, what starts again."""

import os

import pytest

STAGES = ["model", "dataset", "train", "export", "merge", "evaluate"]
MADE = [f"{stage} {state}" for stage in STAGES for state in ("Running", "Succeeded")]


def taken(*stages):
    return [f"{stage} Reused" for stage in stages]


def made(*stages):
    return [f"{stage} {state}" for stage in stages for state in ("Running", "Succeeded")]


def test_every_stage_runs_once_in_the_order_of_the_plan(bench):
    run = bench.run_to_the_end()
    assert run.states() == MADE
    assert [len(bench.said(f"{stage}.runs")) for stage in STAGES] == [1] * 6


def test_a_second_run_takes_every_result_and_starts_nothing(bench):
    bench.done_before("demo")
    assert bench.run_to_the_end().states() == taken(*STAGES)
    assert not list(bench.folder.glob("control/*.runs"))


def test_a_result_of_a_run_is_taken_by_the_next(bench):
    first, second = (bench.run_to_the_end("--until", "dataset") for _ in range(2))
    assert second.states() == taken("model", "dataset")
    assert second.event("dataset", "Reused")["result"] == first.event("dataset", "Succeeded")["result"]


def test_a_stage_end_carries_its_result(bench):
    bench.done_before("evaluate")
    run = bench.run_to_the_end()
    assert run.event("dataset", "Reused")["result"]["rowsDropped"] == {"empty": 1}
    assert run.event("evaluate", "Succeeded")["result"] == {
        "base": {"validCalls": 0.0}, "tuned": {"validCalls": 0.94}, "prompts": 50, "turns": 20,
    }  # fmt: skip


def test_progress_is_told_while_a_stage_runs(bench):
    run = bench.held("train")
    event = bench.until(lambda: next((e for e in run.events if "progress" in e), None), "progress is told")
    assert (event["stage"], event["state"], event["progress"]["totalSteps"]) == ("train", "Running", 5)


def test_until_stops_after_the_stage(bench):
    run = bench.start("run", "--json", "--until", "dataset")
    assert run.ends() == 0
    assert run.states() == made("model", "dataset")


def test_another_learning_rate_trains_again_with_the_same_model_and_dataset(bench):
    bench.done_before("demo")
    bench.write(bench.file.read_text().replace("1e-3", "2e-3"))
    assert bench.run_to_the_end().states() == taken("model", "dataset") + made("train", "export", "merge", "evaluate")


def test_another_title_starts_only_the_demo_anew(bench):
    bench.done_before("demo")
    bench.write(bench.file.read_text().replace("Before and after", "Another"))
    run = bench.start("run", "--json")
    run.wait_for("demo", "Succeeded")
    assert run.states() == taken(*STAGES) + made("demo")


def test_the_demo_opens_at_the_port_and_ctrl_c_is_its_normal_end(bench):
    bench.done_before("demo")
    run = bench.start("run", "--json")
    assert run.wait_for("demo", "Succeeded")["result"] == {"url": f"http://127.0.0.1:{bench.port}"}
    run.interrupt()
    assert run.ends() == 0
    assert bench.said("demo.saved") == ["yes"]


def test_the_demo_serves_again_after_it_was_stopped(bench):
    bench.done_before("demo")
    for _ in range(2):
        run = bench.start("run", "--json")
        run.wait_for("demo", "Succeeded")
        run.interrupt()
        assert run.ends() == 0
    assert len(bench.said("demo.runs")) == 2


def test_a_model_below_the_gate_is_kept_but_not_shown(bench):
    bench.done_before("evaluate")
    bench.control("evaluate.valid").write_text("0.5")
    run = bench.start("run", "--json")
    assert run.ends() == 64
    failure = run.event("demo", "Failed")["failure"]
    assert failure["reason"] == "EvaluationBelowGate"
    assert "0.5, below spec.evaluation.minimumValidCalls 0.8" in failure["message"]
    assert run.event("evaluate", "Succeeded")
    assert not bench.said("demo.runs")


def test_machine_trouble_is_tried_again_until_it_passes(bench):
    bench.done_before("dataset")
    bench.control("dataset.ends").write_text("machine\nmachine")
    run = bench.run_to_the_end("--until", "dataset")
    told = [event["message"] for event in run.events if "message" in event]
    assert told == [f"attempt {attempt} ended: The network is down. Trying again in 0.01 s." for attempt in (1, 2)]
    assert len(bench.said("dataset.runs")) == 3


@pytest.mark.parametrize(
    ("end", "attempts", "reason", "code"),
    [
        ("user", 1, "NoSuchThing", 64),
        ("disk", 1, "DiskFull", 75),
        ("machine", 3, "NetworkDown", 75),
        ("exit", 3, "Unforeseen", 75),
        ("kill", 3, "Killed", 75),
    ],
)
def test_how_a_stage_ends_says_whether_it_is_tried_again(bench, end, attempts, reason, code):
    bench.done_before("train")
    bench.control("train.ends").write_text("\n".join([end] * 5))
    run = bench.start("run", "--json")
    assert run.ends() == code
    assert len(bench.said("train.runs")) == attempts
    failed = run.event("train", "Failed")
    assert failed["failure"]["reason"] == reason
    assert failed["failure"]["cure"]
    assert run.events[-1] == failed


def test_a_failure_names_its_cure_and_the_log(bench):
    bench.control("model.ends").write_text("user")
    run = bench.start("run")
    assert run.ends() == 64
    text = "".join(run.lines)
    assert "NoSuchThing: There is no such thing.\n  Write another.\n" in text
    log = next(bench.workspace.glob("model/*/stage.log"))
    assert f"The stage's log: {log}" in text
    assert "NoSuchThing" in log.read_text()


def test_the_log_keeps_every_attempt(bench):
    bench.control("model.ends").write_text("machine")
    bench.run_to_the_end("--until", "model")
    log = next(bench.workspace.glob("model/*/stage.log")).read_text()
    assert [line.split(",")[0] for line in log.splitlines() if line.startswith("---")] == [
        "--- attempt 1", "--- attempt 2",
    ]  # fmt: skip


def test_stages_wait_passively_unless_the_user_says_otherwise(bench, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    bench.run_to_the_end("--until", "model")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    bench.run_to_the_end("--until", "dataset")
    assert bench.said("model.environment") == ["PASSIVE"]
    assert bench.said("dataset.environment") == ["ACTIVE"]


def test_the_spec_sets_a_stages_environment(bench):
    env = 'stages: {dataset: {env: [{name: OMP_WAIT_POLICY, value: "mine"}]}}'
    bench.write(bench.file.read_text() + f"  {env}\n")
    bench.done_before("dataset")
    bench.run_to_the_end("--until", "dataset")
    assert bench.said("dataset.environment") == ["mine"]


def test_files_of_a_volume_that_changed_behind_a_result_are_told(bench):
    bench.done_before("demo")
    (bench.folder / "data" / "chats.jsonl").write_text("{}\n")
    run = bench.run_to_the_end()
    assert run.states() == taken(*STAGES)
    assert run.errors[0].startswith(f"dataset: {bench.folder}/data/chats.jsonl was written after the result")
    assert len(run.errors) == 1


def test_older_files_of_a_volume_are_not_mentioned(bench):
    bench.done_before("demo")
    (bench.folder / "data" / "chats.jsonl").write_text("{}\n")
    os.utime(bench.folder / "data" / "chats.jsonl", (0, 0))
    assert bench.run_to_the_end().errors == []
