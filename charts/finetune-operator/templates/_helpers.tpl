{{- define "finetune-operator.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "finetune-operator.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "finetune-operator.fullname" .) }}
{{- end }}

{{- define "finetune-operator.selector" -}}
app.kubernetes.io/name: finetune-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "finetune-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "finetune-operator.selector" . }}
{{- end }}

{{/* The labels by which the Deployment knows its pods. */}}
{{- define "finetune-operator.podSelector" -}}
{{ include "finetune-operator.selector" . }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Refuses values that don't fit each other, which the schema can't say. */}}
{{- define "finetune-operator.fitting" -}}
{{- $said := .Values.operator }}
{{- if ge (float64 $said.leaseRenew) (float64 $said.leaseSeconds) }}
{{- fail (printf "operator.leaseRenew: in %v s the Lease of %v s has run out; write less than operator.leaseSeconds" $said.leaseRenew $said.leaseSeconds) }}
{{- end }}
{{- if le (float64 $said.leaseRenew) (mulf 1.2 $said.leaseRetry) }}
{{- fail (printf "operator.leaseRetry: every %v s is no second try in the %v s of operator.leaseRenew; write less than operator.leaseRenew / 1.2" $said.leaseRetry $said.leaseRenew) }}
{{- end }}
{{- range $label, $_ := include "finetune-operator.podSelector" . | fromYaml }}
{{- if hasKey $.Values.podLabels $label }}
{{- fail (printf "podLabels: the Deployment knows its pods by %s; leave it out" $label) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of an image's values, the chart and the registry of all its images: what a container's image field says. */}}
{{- define "finetune-operator.image" -}}
{{- with .image -}}
{{- with .registry | default $.registry }}{{ . }}/{{ end }}{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* Each setting by its name: operator.logFormat is FINETUNE_LOG_FORMAT, jobs.user is FINETUNE_POD_USER. */}}
{{- define "finetune-operator.environment" -}}
- name: FINETUNE_OWN_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: FINETUNE_IDENTITY
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: FINETUNE_LEASE_NAME
  value: {{ include "finetune-operator.fullname" . }}
- name: FINETUNE_NAMESPACES
  value: {{ join "," .Values.namespaces | quote }}
{{- range $key, $value := .Values.operator }}
- name: FINETUNE_{{ $key | snakecase | upper }}
  value: {{ include "finetune-operator.text" $value }}
{{- end }}
{{- range $key, $value := .Values.jobs }}
- name: FINETUNE_POD_{{ $key | snakecase | upper }}
  {{- if kindIs "map" $value }}
  value: {{ include "finetune-operator.image" (dict "image" $value "chart" $.Chart "registry" $.Values.image.registry) }}
  {{- else }}
  value: {{ include "finetune-operator.text" $value }}
  {{- end }}
{{- end }}
{{- end }}

{{/* A large whole number stays one: 1209600 and not 1.2096e+06. */}}
{{- define "finetune-operator.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . | quote }}{{ else }}{{ toString . | quote }}{{ end }}
{{- end }}

{{- define "finetune-operator.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "finetune-operator.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsUser: 10001
runAsGroup: 10001
capabilities: {drop: [ALL]}
{{- end }}

{{/* The service account's token as Kubernetes would mount it, for the one container that needs it: 3607 s is what it
writes itself, and the API server lets such a token that was not renewed in time go on with a warning. */}}
{{- define "finetune-operator.tokenVolume" -}}
projected:
  defaultMode: 0440
  sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3607}
    - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}

{{/* Of ports and, where it is not TCP, protocols: the ports of a NetworkPolicy's rule. */}}
{{- define "finetune-operator.ports" -}}
{{- $found := list }}
{{- range $port := .ports }}
{{- range $protocol := $.protocols | default (list "TCP") }}
{{- $found = append $found (dict "protocol" $protocol "port" (int64 $port)) }}
{{- end }}
{{- end }}
{{- toYaml $found }}
{{- end }}

{{- define "finetune-operator.jobNamespaces" -}}
{{- toJson (.Values.networkPolicy.jobNamespaces | default .Values.namespaces) }}
{{- end }}

{{- define "finetune-operator.dnsRule" -}}
- to:
    {{- toYaml .dns.to | nindent 4 }}
  ports:
    {{- include "finetune-operator.ports" (dict "ports" .dns.ports "protocols" (list "UDP" "TCP")) | nindent 4 }}
{{- end }}

{{/* Of stages: selects the pods of FineTuneJobs in them; of none: all. */}}
{{- define "finetune-operator.jobPods" -}}
matchLabels: {app.kubernetes.io/name: finetunejob, app.kubernetes.io/managed-by: finetune-operator}
{{- with . }}
matchExpressions:
  - {key: finetune.dev/stage, operator: In, values: {{ toJson . }}}
{{- end }}
{{- end }}
