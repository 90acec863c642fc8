"""XTuner's SupervisedFinetune around a model that `model.build` made."""

from typing import Any

from peft import get_peft_model
from xtuner.model import SupervisedFinetune
from xtuner.model.utils import find_all_linear_names


class FastFinetune(SupervisedFinetune):  # type: ignore[misc]
    """As its parent, but the frozen weights keep their type: the parent widens them to fp32 on the way to LoRA."""

    llm: Any

    def _dispatch_lm_model_cfg(self, cfg: Any, *_: Any) -> Any:
        return cfg

    def _prepare_for_lora(self, *_: Any) -> None:
        self.llm.requires_grad_(requires_grad=False)
        if self.lora.target_modules is None:
            self.lora.target_modules = find_all_linear_names(self.llm)
        self.llm = get_peft_model(self.llm, self.lora)
