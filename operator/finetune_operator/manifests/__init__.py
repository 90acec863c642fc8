"""From a plan to Kubernetes objects as plain dicts, one file a kind of object. Pure; called by cluster/."""
