"""Which files make a model, and what is refused by the names alone, before anything is downloaded."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from finetune_jobs.errors import UserMistake
from finetune_jobs.sources.files import is_pickle, matches

WANTED = (
    "*.safetensors", "*.gguf", "*.json", "*.jinja", "*.model", "*.tiktoken", "vocab.txt", "merges.txt",
    "README.md", "LICENSE*", "LICENCE*", "NOTICE*",
)  # fmt: skip
"""At the root of the source. No *.py: a model's own code is never run."""
COPIES = ("*.gguf", "consolidated*.safetensors")
"""The same weights in another form, where they lie beside those that transformers loads."""
LOADED = "model*.safetensors"
SINGLE = "model.safetensors"
SHARDED = ("model-*.safetensors", "model.safetensors.index.json")
"""Which transformers does not look at where the single file lies beside them."""
PICKLED = ("*.bin", "*.pth")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "*.tiktoken")
ADAPTER = "adapter_config.json"


def wanted(allow_pickle: bool) -> tuple[str, ...]:
    return WANTED + (PICKLED if allow_pickle else ())


def needed(names: Sequence[str]) -> list[str]:
    """The names without copies of the weights."""
    copies: tuple[str, ...] = COPIES if any(matches(name, LOADED) for name in names) else ()
    copies += SHARDED if SINGLE in names else ()
    return [name for name in names if not any(matches(name, pattern) for pattern in copies)]


def refuse(there: Sequence[str], others: Sequence[str], *, allow_pickle: bool) -> None:
    """Raise UserMistake for a folder that can't be a model by its files' names."""
    top = [name for name in there if "/" not in name]
    if "config.json" not in top and ADAPTER in top:
        raise UserMistake(
            "AdapterNotModel",
            "The source of the model holds an adapter, not a model.",
            "Write it under spec.adapter, and its base model under spec.model.",
        )
    refuse_weights(top, [name for name in others if "/" not in name and is_pickle(name)], allow_pickle)
    if single_gguf(top) is None:
        refuse_without_config(top)


def refuse_weights(top: Sequence[str], pickles: Sequence[str], allow_pickle: bool) -> None:
    if any(name.endswith((".safetensors", ".gguf")) for name in top) or (allow_pickle and any(map(is_pickle, top))):
        return
    pickled = [*pickles, *(name for name in top if is_pickle(name))]
    if pickled:
        raise UserMistake(
            "PickleRefused",
            f"The weights are pickles ({', '.join(pickled[:3])}): loading one can run code that its author put in.",
            "Name a revision or repository with .safetensors, or set model.allowPickle: true if you trust the author.",
        )
    raise UserMistake(
        "WeightsMissing",
        f"There are no weights (.safetensors or .gguf); there is: {', '.join(top[:10])}.",
        "Name the repository or folder that directly holds the model's files.",
    )


def refuse_without_config(top: Sequence[str]) -> None:
    if "config.json" not in top:
        raise UserMistake(
            "ConfigMissing",
            f"There is no config.json beside the weights; there is: {', '.join(top[:10])}.",
            "Add the model's config.json, or name the repository that has it.",
        )
    if not any(PurePosixPath(name).match(pattern) for name in top for pattern in TOKENIZERS):
        raise UserMistake(
            "TokenizerMissing",
            "There is no tokenizer beside the weights (tokenizer.json or tokenizer.model).",
            "Add the tokenizer's files to the model's folder, or name the repository that has them.",
        )


def single_gguf(top: Sequence[str]) -> str | None:
    """The one .gguf of a folder without safetensors. Raises UserMistake if there are several."""
    ggufs = [name for name in top if name.endswith(".gguf")]
    if not ggufs or any(name.endswith(".safetensors") for name in top):
        return None
    if len(ggufs) > 1:
        raise UserMistake(
            "SeveralGgufs",
            f"There are {len(ggufs)} GGUF files ({', '.join(ggufs[:4])}), and nothing says which one is meant.",
            "Name one: by `path` in a volume or package, or by a repository that has one alone.",
        )
    return ggufs[0]


def gguf_of(fetched: Path) -> Path | None:
    """The GGUF file to convert, if that is what came; a single file can be nothing else."""
    if fetched.is_dir():
        name = single_gguf([path.name for path in fetched.iterdir()])
        return fetched / name if name else None
    if fetched.suffix != ".gguf":
        raise UserMistake(
            "NotAModel",
            f"The source is the single file {fetched.name}, which is no GGUF.",
            "Name the folder that holds the weights with config.json and the tokenizer.",
        )
    return fetched
