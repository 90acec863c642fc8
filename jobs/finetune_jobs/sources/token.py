"""The access token of the source's server: from a file or the environment, never in a log."""

import os
import re
from pathlib import Path

from finetune_jobs.errors import UserMistake

TOKEN_FILE = "FINETUNE_TOKEN_FILE"  # noqa: S105 (the variable's name, not a token)
TOKEN = "HF_TOKEN"  # noqa: S105 (the variable's name, not a token)
TOKEN_CURE = f"put a token into a file and its path into {TOKEN_FILE} (in a cluster: tokenSecretRef)"
HUB_TOKEN_CURE = f"{TOKEN_CURE}, or set {TOKEN}"
CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")


def masked(text: str) -> str:
    """Without user names, passwords and tokens in URLs."""
    return CREDENTIALS.sub("***@", text)


def access_token() -> str | None:
    """The token, or None where none is given. Raises UserMistake for a file that can't be read."""
    named = os.environ.get(TOKEN_FILE)
    if not named:
        return os.environ.get(TOKEN, "").strip() or None
    try:
        token = Path(named).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise UserMistake(
            "TokenMissing",
            f"There is no {named}, which {TOKEN_FILE} names: in a cluster, the Secret of tokenSecretRef or its key "
            "is not there.",
            "Make the Secret with that key, in the job's namespace, then edit the job or apply it again.",
        ) from None
    except OSError as error:
        raise UserMistake(
            "TokenUnreadable",
            f"{TOKEN_FILE} names {named}, which can't be read: {error.strerror}.",
            f"Name a file with the token alone, or unset {TOKEN_FILE}.",
        ) from None
    if not token:
        raise UserMistake("TokenEmpty", f"{named}, named by {TOKEN_FILE}, is empty.", "Write the token into it.")
    return token
