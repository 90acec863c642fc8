"""What a training leaves on disk: its curve and its checkpoints, whole whatever was killed when."""

import pytest

from finetune_jobs.contract import CHECKPOINTS_FOLDER, CurvePoint
from finetune_jobs.train import checkpoints, curve
from finetune_jobs.train.checkpoints import Marker, Tally


def point(step, loss=1.0):
    return CurvePoint(step=step, loss=loss, learning_rate=1e-3)


def write(out, step):
    draft = checkpoints.draft(out, step)
    draft.mkdir(parents=True)
    (draft / "weights").write_bytes(b"x")
    return checkpoints.finish(
        draft, Marker(step=step, total_steps=9, world_size=1, dtype="float32", tally=Tally(seconds=2.5, tokens=7))
    )


def test_a_curve_is_rewound_to_the_checkpoint_that_training_goes_on_from(tmp_path):
    path = tmp_path / "curve.jsonl"
    for step in range(1, 6):
        curve.append(path, point(step))
    curve.rewind(path, 3)
    curve.append(path, point(4, loss=0.5))
    assert [(p.step, p.loss) for p in curve.read(path)] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 0.5)]


def test_a_line_that_a_kill_cut_is_dropped(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_text(point(1).to_json() + "\n" + point(2).to_json()[:9])
    assert [p.step for p in curve.read(path)] == [1]


def test_a_letter_that_a_kill_cut_is_dropped_with_its_line(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_bytes(point(1).to_json().encode() + b"\n\xe2\x80")
    assert [p.step for p in curve.read(path)] == [1]


def test_no_curve_is_no_points(tmp_path):
    assert curve.read(tmp_path / "none") == []


@pytest.mark.parametrize("count", [1, 29, 30, 31, 1000])
def test_a_thinned_curve_keeps_its_ends_and_has_at_most_thirty_points(count):
    thinned = curve.thin([point(step) for step in range(count)])
    assert len(thinned) == min(count, 30)
    assert (thinned[0].step, thinned[-1].step) == (0, count - 1)


def test_the_final_loss_is_the_mean_of_the_last_tenth():
    assert curve.final_loss([point(step, loss=step) for step in range(20)]) == 18.5
    assert curve.final_loss([point(1, loss=3.0)]) == 3.0


def test_a_checkpoint_in_the_midst_of_being_written_is_not_used(tmp_path):
    write(tmp_path, 4)
    checkpoints.draft(tmp_path, 8).mkdir()
    assert checkpoints.newest(tmp_path).name == "step-4"
    assert [folder.name for folder in checkpoints.clear_drafts(tmp_path)] == ["writing-8"]
    assert [folder.name for folder in (tmp_path / CHECKPOINTS_FOLDER).iterdir()] == ["step-4"]


def test_the_last_checkpoints_are_kept_by_number_not_by_name(tmp_path):
    for step in (8, 9, 10):
        write(tmp_path, step)
    checkpoints.prune(tmp_path, 2)
    assert [folder.name for folder in checkpoints.complete(tmp_path)] == ["step-9", "step-10"]


def test_a_marker_tells_what_the_checkpoint_is_of(tmp_path):
    marker = checkpoints.read_marker(write(tmp_path, 3))
    assert (marker.step, marker.total_steps, marker.tally.seconds, marker.tally.tokens) == (3, 9, 2.5, 7)


def test_without_a_checkpoint_there_is_no_newest(tmp_path):
    assert checkpoints.newest(tmp_path) is None
