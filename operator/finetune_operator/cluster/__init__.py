"""The operator: kopf watches, a queue of keys, and for each key observe -> decide -> apply.

python -m finetune_operator.cluster
"""
