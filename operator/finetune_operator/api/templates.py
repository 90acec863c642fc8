"""Names of the conversation templates, as XTuner 0.2.0 spells them (xtuner.utils.PROMPT_TEMPLATE)."""

XTUNER_TEMPLATES = (
    "default", "zephyr", "internlm_chat", "internlm2_chat", "moss_sft", "llama2_chat", "code_llama_chat", "chatglm2",
    "chatglm3", "qwen_chat", "baichuan_chat", "baichuan2_chat", "wizardlm", "wizardcoder", "vicuna", "deepseek_coder",
    "deepseekcoder", "deepseek_moe", "deepseek_v2", "mistral", "mixtral", "minicpm", "minicpm3", "gemma",
    "cohere_chat", "llama3_chat", "phi3_chat",
)  # fmt: skip

SPELLINGS = {
    **{name: name for name in XTUNER_TEMPLATES},
    **{name.replace("_", "-"): name for name in XTUNER_TEMPLATES},
    "chatml": "qwen_chat",
}
"""What a spec may say -> XTuner's name. Kubernetes prefers hyphens; ChatML is what qwen_chat writes."""
