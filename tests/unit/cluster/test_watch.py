"""What the watches bring in."""

from tests.unit.cluster.bodies import NAME, NAMESPACE, config_map, fine_tune_job

from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.health import Health
from finetune_operator.cluster.kinds import CONFIG_MAPS, FINE_TUNE_JOBS
from finetune_operator.cluster.queue import KeyQueue
from finetune_operator.cluster.settings import Settings
from finetune_operator.cluster.watch import Watches, kopf_settings


def test_an_object_that_cant_be_read_ends_no_watch(caplog):
    watches = Watches(Cache(), KeyQueue(), Health(180), kopf_settings(Settings()))
    unreadable = config_map()
    unreadable["metadata"]["resourceVersion"] = "new"
    watches.take_soundly(CONFIG_MAPS, {"type": "ADDED", "object": unreadable})
    assert "a ConfigMap could not be read" in caplog.text
    watches.take_soundly(FINE_TUNE_JOBS, {"type": "ADDED", "object": fine_tune_job({})})
    assert list(watches.cache.records) == [(NAMESPACE, NAME)]
