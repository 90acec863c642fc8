"""Downloads from the hub, against a fake of it that speaks real HTTP."""

import logging
import os

import pytest

from finetune_jobs.contract import DatasetFormat, DatasetRequest, HuggingFaceSource, Source
from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.room import Room
from finetune_jobs.sources import fetch, space

COMMIT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"
TOKEN = "hf_verysecret"


def of_hub(repo: str = "owner/small", revision: str = "main") -> Source:
    return Source(hugging_face=HuggingFaceSource(repo=repo, revision=revision))


def bodies(hub) -> list[str]:
    return [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]


def test_the_commit_is_resolved_first_and_only_it_is_read(bring, hub):
    hub.files = {"config.json": b"{}", "model.safetensors": bytes(5000)}
    fetched = bring(of_hub())
    assert fetched.revision == COMMIT
    assert fetched.license == "apache-2.0"
    assert fetched.description == "huggingFace owner/small at 5f0b02c75b57"
    assert (fetched.path / "model.safetensors").read_bytes() == bytes(5000)
    assert all(f"/resolve/{COMMIT}/" in path for path in bodies(hub))


def test_only_needed_files_are_downloaded_and_no_pickle_beside_safetensors(bring, hub):
    hub.files = dict.fromkeys(["model.safetensors", "pytorch_model.bin", "README.md", "x/y.json"], b"1234")
    fetched = bring(of_hub(), patterns=["*.safetensors", "*.bin"])
    assert [path.name for path in fetched.path.iterdir()] == ["model.safetensors"]
    assert len(bodies(hub)) == 1
    assert fetched.left_out == ("pytorch_model.bin", "README.md", "x/y.json")


def test_a_broken_download_goes_on_where_it_stopped(bring, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    body = os.urandom(50_000)
    hub.files, hub.cut_after = {"model.safetensors": body}, {"model.safetensors": 20_000}
    with pytest.raises(MachineTrouble, match="goes on") as caught:
        bring(of_hub())
    assert caught.value.failure.reason == "Network"
    fetched = bring(of_hub())
    assert (fetched.path / "model.safetensors").read_bytes() == body
    ranges = [int(asked.removeprefix("bytes=").split("-")[0]) for _, _, asked in hub.asked if asked]
    assert max(ranges) >= 10_000


def test_a_second_fetch_asks_the_hub_nothing(bring, hub):
    hub.files = {"config.json": b"{}"}
    bring(of_hub())
    hub.asked.clear()
    bring(of_hub())
    assert hub.asked == []


def test_a_file_that_someone_cut_is_downloaded_anew(bring, hub, out):
    hub.files = {"model.safetensors": bytes(5000)}
    (out / "download").mkdir()
    (out / "download" / "model.safetensors").write_bytes(bytes(40))
    assert (bring(of_hub()).path / "model.safetensors").read_bytes() == bytes(5000)


def test_other_bytes_than_the_hub_lists_are_not_believed(bring, hub, out, monkeypatch):
    hub.files = {"model.safetensors": bytes(5000)}
    listed = hub.siblings()
    listed[0]["lfs"]["sha256"] = "0" * 64
    monkeypatch.setattr(hub, "siblings", lambda: listed)
    with pytest.raises(MachineTrouble, match="other bytes"):
        bring(of_hub())
    assert not (out / "download" / "model.safetensors").exists()


def test_no_such_repository(bring, hub):
    with pytest.raises(UserMistake, match="no model owner/smal, or it is private") as caught:
        bring(of_hub("owner/smal"))
    assert caught.value.failure.reason == "RepositoryMissing"
    assert "spelling" in caught.value.failure.cure


def test_no_such_revision(bring, hub):
    with pytest.raises(UserMistake, match="no revision 'v9'") as caught:
        bring(of_hub(revision="v9"))
    assert caught.value.failure.reason == "RevisionMissing"


def test_a_gated_repository_without_a_token_says_how_to_get_in(bring, hub):
    hub.files, hub.gated_for = {"config.json": b"{}"}, {TOKEN}
    with pytest.raises(UserMistake, match="gated.*no token was given") as caught:
        bring(of_hub())
    assert caught.value.failure.reason == "Gated"
    assert "FINETUNE_TOKEN_FILE" in caught.value.failure.cure


def test_a_gated_repository_with_a_strangers_token(bring, hub, monkeypatch):
    hub.files, hub.gated_for = {"config.json": b"{}"}, {"another"}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UserMistake, match="has no access") as caught:
        bring(of_hub())
    assert TOKEN not in str(caught.value)


def test_a_token_from_a_file_opens_a_gated_repository_and_is_in_no_log(bring, hub, monkeypatch, caplog, out):
    caplog.set_level(logging.DEBUG)
    hub.files, hub.gated_for = {"config.json": b"{}", "model.safetensors": bytes(5000)}, {TOKEN}
    (out / ".." / "token").write_text(TOKEN + "\n")
    monkeypatch.setenv("FINETUNE_TOKEN_FILE", str(out / ".." / "token"))
    bring(of_hub())
    assert "downloading config.json" in caplog.text
    assert TOKEN not in caplog.text
    assert all(TOKEN.encode() not in file.read_bytes() for file in out.rglob("*") if file.is_file())


def test_a_token_file_that_is_not_there_is_named(bring, hub, monkeypatch):
    monkeypatch.setenv("FINETUNE_TOKEN_FILE", "/no/token")
    with pytest.raises(UserMistake, match="no /no/token.*the Secret of tokenSecretRef"):
        bring(of_hub())


def test_the_hubs_own_trouble_is_retried_not_the_users_mistake(bring, hub):
    hub.trouble = 503
    with pytest.raises(MachineTrouble, match="answered 503"):
        bring(of_hub())


def test_a_hub_out_of_reach_is_the_machines_trouble(bring, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MachineTrouble, match="could not be reached") as caught:
        bring(of_hub())
    assert caught.value.failure.reason == "Network"


def test_too_little_space_is_seen_before_the_first_byte(bring, hub, monkeypatch):
    hub.files = {"model.safetensors": bytes(5000)}
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: space.shutil._ntuple_diskusage(9, 9, 9))
    with pytest.raises(MachineTrouble, match="are free"):
        bring(of_hub())
    assert bodies(hub) == []


def test_a_stage_refuses_by_names_alone_before_the_first_byte(bring, hub):
    hub.files = {"model.safetensors": bytes(5000), "a.py": b""}

    def accept(there, others):
        raise UserMistake("NoTokenizer", f"{there} {others}", "Add it.")

    with pytest.raises(UserMistake, match=r"\['model.safetensors'\] \('a.py',\)"):
        bring(of_hub(), patterns=["*.safetensors"], accept=accept)
    assert bodies(hub) == []


def test_the_dataset_stage_reads_a_repository_of_data(hub, out):
    hub.kind, hub.files = "datasets", {"data/one.jsonl": b"{}\n"}
    request = DatasetRequest(source=of_hub(), format=DatasetFormat.AGENT_FLAN, template="llama3_chat", max_length=64)
    fetched = fetch(request.source, Room(out, request, out), out / "download")
    assert (fetched.path / "data" / "one.jsonl").read_bytes() == b"{}\n"
