"""Runs that are interrupted, killed, or meet another run, and what the next one does."""

import os
import signal
import socket

import pytest

STAGES = ["model", "dataset", "train", "export", "merge", "evaluate"]


def gone(bench, pids):
    return bench.until(lambda: not any(bench.lives(int(pid)) for pid in pids), f"{pids} are gone")


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_runner_leaves_no_stage_behind_and_the_next_run_goes_on(bench, stage):
    run = bench.held(stage)
    run.process.kill()
    gone(bench, bench.said(f"{stage}.runs"))
    assert bench.said(f"{stage}.saved") == ["yes"]
    bench.control(f"{stage}.hold").unlink()
    bench.run_to_the_end("--until", stage)
    assert bench.said(f"{stage}.steps") == ["1", "2", "3", "4", "5"], "each step is made once"


def test_a_killed_runner_closes_its_demo(bench):
    bench.done_before("demo")
    run = bench.start("run", "--json")
    run.wait_for("demo", "Succeeded")
    run.process.kill()
    gone(bench, bench.said("demo.runs"))
    again = bench.start("run", "--json")
    assert again.wait_for("demo", "Succeeded")


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_is_started_again_and_goes_on(bench, stage):
    run = bench.held(stage)
    os.kill(int(bench.said(f"{stage}.runs")[0]), signal.SIGKILL)
    bench.control(f"{stage}.hold").unlink()
    assert run.ends() == 0
    assert bench.said(f"{stage}.steps") == ["1", "2", "3", "4", "5"]
    assert any("SIGKILL" in event.get("message", "") for event in run.events)


def test_what_a_killed_stage_started_is_ended_before_the_next_attempt(bench):
    bench.control("train.rank").touch()
    bench.control("train.ends").write_text("kill")
    bench.done_before("train")
    bench.run_to_the_end("--until", "train")
    first, second = bench.said("train.ranks")
    assert not bench.lives(int(first))
    assert not bench.lives(int(second))


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_saves_and_says_how_to_go_on(bench, stage):
    run = bench.held(stage)
    run.interrupt()
    assert run.ends() == 130
    assert bench.said(f"{stage}.saved") == ["yes"]
    last = run.events[-1]
    assert (last["stage"], last["state"]) == (stage, "Interrupted")
    assert f"finetune run {bench.file}" in last["message"]
    bench.control(f"{stage}.hold").unlink()
    bench.run_to_the_end("--until", stage)
    assert bench.said(f"{stage}.steps") == ["1", "2", "3", "4", "5"]


def test_a_second_ctrl_c_warns_and_a_third_kills(bench):
    bench.control("train.slow-save").touch()
    run = bench.held("train")
    run.interrupt()
    bench.until(lambda: any("saves what it has" in line for line in run.errors), "the first is told")
    run.interrupt()
    bench.until(lambda: any("A third Ctrl-C kills" in line for line in run.errors), "the second warns")
    assert bench.lives(int(bench.said("train.runs")[0]))
    run.interrupt()
    assert run.ends() == 130
    assert run.events[-1]["state"] == "Interrupted"
    assert not bench.lives(int(bench.said("train.runs")[0]))
    assert not bench.said("train.saved")


def test_a_request_to_terminate_is_a_ctrl_c(bench):
    run = bench.held("merge")
    run.process.terminate()
    assert run.ends() == 130
    assert bench.said("merge.saved") == ["yes"]


def test_of_two_runs_at_once_one_works_and_the_other_takes_the_result(bench):
    one = bench.held("train")
    two = bench.start("run", "--json", "--until", "train")
    waiting = bench.until(lambda: next((e for e in two.events if "waiting" in e.get("message", "")), None), "two waits")
    assert (waiting["stage"], waiting["state"]) == ("train", "Running")
    assert waiting["message"] == "waiting for another run"
    bench.control("train.hold").unlink()
    assert [one.ends(), two.ends()] == [0, 0]
    assert one.event("train", "Succeeded")["result"] == two.event("train", "Reused")["result"]
    assert len(bench.said("train.runs")) == 1


def test_two_runs_started_together_make_each_stage_once(bench):
    runs = [bench.start("run", "--json", "--no-demo") for _ in range(2)]
    assert [run.ends() for run in runs] == [0, 0]
    assert [len(bench.said(f"{stage}.runs")) for stage in STAGES] == [1] * 6
    for stage in STAGES:
        states = sorted(e["state"] for run in runs for e in run.events if e["stage"] == stage and "result" in e)
        assert states == ["Reused", "Succeeded"]


def test_a_run_that_waits_takes_over_from_one_that_is_interrupted(bench):
    one = bench.held("train")
    two = bench.start("run", "--json", "--until", "train")
    bench.until(lambda: any("waiting" in e.get("message", "") for e in two.events), "two waits")
    one.interrupt()
    assert one.ends() == 130
    bench.control("train.hold").unlink()
    assert two.ends() == 0
    assert bench.said("train.steps") == ["1", "2", "3", "4", "5"]


def test_a_run_waits_until_the_stage_of_a_killed_runner_has_saved(bench):
    bench.control("train.slow-save").touch()
    bench.held("train").process.kill()
    two = bench.start("run", "--json", "--until", "train")
    event = bench.until(lambda: two.event("train", "Running"), "two waits")
    assert event["message"] == "waiting until the stage of an earlier run has saved and ended"
    bench.control("train.hold").unlink()
    bench.control("train.slow-save").unlink()
    assert two.ends() == 0
    assert bench.said("train.steps") == ["1", "2", "3", "4", "5"]


def test_a_run_that_waits_can_be_interrupted(bench):
    bench.held("train")
    two = bench.start("run", "--json", "--until", "train")
    bench.until(lambda: any("waiting" in e.get("message", "") for e in two.events), "two waits")
    two.interrupt()
    assert two.ends() == 130
    assert len(bench.said("train.runs")) == 1


def test_a_second_run_waits_for_the_demo_and_names_its_url(bench):
    bench.done_before("demo")
    one = bench.start("run", "--json")
    url = one.wait_for("demo", "Succeeded")["result"]["url"]
    two = bench.start("run", "--json")
    bench.until(lambda: any(url in e.get("message", "") for e in two.events), "two names the open demo")
    one.interrupt()
    assert one.ends() == 0
    assert two.wait_for("demo", "Succeeded")


def test_a_taken_port_is_refused_before_anything_runs_and_another_is_named(bench):
    with socket.create_server(("127.0.0.1", bench.port)):
        run = bench.start("run", "--json")
        assert run.ends() == 64
        assert f"can't listen on 127.0.0.1 port {bench.port}: Address already in use." in run.errors[0]
        assert "Give another: --port " in run.errors[0]
    assert not bench.workspace.exists()


def test_a_port_taken_meanwhile_fails_the_demo_and_keeps_the_rest(bench):
    bench.done_before("evaluate")
    bench.control("evaluate.hold").touch()
    run = bench.start("run", "--json")
    run.wait_for("evaluate", "Running")
    with socket.create_server(("127.0.0.1", bench.port)):
        bench.control("evaluate.hold").unlink()
        assert run.ends() == 64
    assert run.event("demo", "Failed")["failure"]["reason"] == "PortInUse"
    assert run.event("evaluate", "Succeeded")


def on_a_small_disk(bench, options):
    """A run in a mount namespace of its own, whose workspace is a small disk that goes when the run ends."""
    bench.workspace.mkdir()
    command = f'mount -t tmpfs -o {options} tmpfs {bench.workspace} && exec "$@"'
    run = bench.start(
        "run", "--json", "--no-demo", under=["unshare", "--map-root-user", "--mount", "sh", "-c", command, "sh"]
    )
    run.ends()
    if any("unshare" in line or "mount:" in line for line in run.errors):
        pytest.skip(f"this user may not mount a tmpfs: {run.errors}")
    return run


@pytest.mark.parametrize("options", ["size=4k,nr_inodes=4", "size=64k"], ids=["runner", "stage"])
def test_a_full_disk_is_told_with_its_cure_and_not_tried_again(bench, options):
    bench.control("model.fill").touch()
    run = on_a_small_disk(bench, options)
    assert run.ends() == 75, run.lines + run.errors
    failure = run.event("model", "Failed")["failure"]
    assert failure["reason"] == "DiskFull"
    assert failure["message"].startswith("No space left on device")
    assert len(bench.said("model.runs")) <= 1
