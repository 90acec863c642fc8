{{/* Made from operator/finetune_operator/cluster/rights.py by `make generate`; do not edit. */}}
{{- define "finetune-operator.rules" -}}
- apiGroups:
  - finetune.dev
  resources:
  - finetunejobs
  verbs:
  - list
  - watch
- apiGroups:
  - finetune.dev
  resources:
  - finetunejobs/status
  verbs:
  - patch
- apiGroups:
  - batch
  resources:
  - jobs
  verbs:
  - list
  - watch
  - get
  - create
  - patch
  - delete
- apiGroups:
  - ''
  resources:
  - pods
  verbs:
  - list
  - watch
- apiGroups:
  - ''
  resources:
  - configmaps
  - persistentvolumeclaims
  - serviceaccounts
  verbs:
  - list
  - watch
  - get
  - create
  - patch
- apiGroups:
  - apps
  resources:
  - deployments
  verbs:
  - list
  - watch
  - create
  - patch
  - delete
- apiGroups:
  - ''
  resources:
  - services
  verbs:
  - list
  - watch
  - get
  - create
  - patch
  - delete
- apiGroups:
  - networking.k8s.io
  resources:
  - ingresses
  verbs:
  - list
  - watch
  - create
  - patch
  - delete
- apiGroups:
  - gateway.networking.k8s.io
  resources:
  - httproutes
  verbs:
  - list
  - watch
  - create
  - patch
  - delete
- apiGroups:
  - rbac.authorization.k8s.io
  resources:
  - roles
  - rolebindings
  verbs:
  - list
  - watch
  - get
  - create
  - patch
- apiGroups:
  - events.k8s.io
  resources:
  - events
  verbs:
  - create
{{- end }}
{{- define "finetune-operator.ownRules" -}}
- apiGroups:
  - coordination.k8s.io
  resources:
  - leases
  verbs:
  - get
  - create
  - patch
{{- end }}
