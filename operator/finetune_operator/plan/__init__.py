"""From a FineTuneJob to its stages with digests and requests. Does no I/O and reads no clock."""

from finetune_operator.plan.make import STAGES, Plan, PlannedStage, make_plan

__all__ = ["STAGES", "Plan", "PlannedStage", "make_plan"]
