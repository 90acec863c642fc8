"""The names that a spec may say are the names that XTuner ships."""

import importlib.util
from pathlib import Path

from finetune_operator.api.templates import SPELLINGS, XTUNER_TEMPLATES


def test_the_names_are_xtuners():
    xtuner = importlib.util.find_spec("xtuner").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("templates", Path(xtuner) / "utils" / "templates.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert set(XTUNER_TEMPLATES) == set(module.PROMPT_TEMPLATE)
    assert set(SPELLINGS.values()) == set(module.PROMPT_TEMPLATE)
