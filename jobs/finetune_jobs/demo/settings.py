"""What the page is started with. It comes from the process's start alone: no visitor can name a path."""

import os
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

VARIABLE = "FINETUNE_DEMO_SETTINGS"
"""Environment variable of the server's process: `Settings` as JSON."""


class Side(StrEnum):
    """Before and after."""

    BASE = "base"
    TUNED = "tuned"


class Settings(BaseModel):
    """Folders that a missing stage would have made are None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    template: str
    tools: tuple[str, ...]
    models: dict[Side, Path]
    """Model folders, in the order in which they are shown."""
    dataset: Path | None = None
    train: Path | None = None
    merge: Path | None = None
    evaluate: Path | None = None


def read_settings() -> Settings:
    return Settings.model_validate_json(os.environ[VARIABLE])
