"""What the model card says of a source."""

from finetune_jobs.contract import GitSource, Source
from finetune_jobs.merge.card import say_source


def test_what_a_url_of_an_old_record_holds_before_the_at_sign_is_not_published():
    old = GitSource.model_construct(url="https://ghp_token@github.com/org/data.git", revision="main", lfs=True)
    said = say_source(Source(git=old))
    assert said == "git: url=https://***@github.com/org/data.git revision=main lfs=True"
