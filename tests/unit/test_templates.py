"""The chat templates are XTuner's own, found without importing it."""

import subprocess
import sys

import pytest

from finetune_jobs.errors import UserMistake
from finetune_jobs.templates import Template, template, template_names


def test_every_template_equals_xtuners_own():
    from xtuner.utils.templates import PROMPT_TEMPLATE

    assert set(template_names()) == set(PROMPT_TEMPLATE)
    for name, row in PROMPT_TEMPLATE.items():
        ours = template(name).model_dump(exclude_unset=True)
        assert ours.pop("name") == name
        assert ours == {
            field.lower(): tuple(value) if isinstance(value, list) else value for field, value in row.items()
        }


def test_no_heavy_package_is_imported():
    code = (
        "import sys; from finetune_jobs.templates import template; template('qwen_chat');"
        "print({'torch', 'xtuner', 'mmengine'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(UserMistake) as caught:
        template("llama3-chat")
    assert caught.value.failure.reason == "TemplateUnknown"
    assert "Write template: llama3_chat, or one of: baichuan2_chat" in caught.value.failure.cure


def test_braces_in_a_message_stay_as_they_are():
    chat = Template(name="x", instruction="<u>{input}</u>{round}")
    assert chat.render_system('{"a": {}}') == '{"a": {}}'
    assert chat.render_instruction("{input} {round}", 3) == "<u>{input} {round}</u>3"
