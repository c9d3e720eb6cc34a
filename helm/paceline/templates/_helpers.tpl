{{/* Everything is called after the release; "paceline" is not said twice. */}}
{{- define "paceline.prefix" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" -}}
{{- else if contains "paceline" .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-paceline" (.Release.Name | trunc 37 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "paceline.operator" -}}{{ include "paceline.prefix" . }}-operator{{- end -}}
{{- define "paceline.prometheus" -}}{{ include "paceline.prefix" . }}-prometheus{{- end -}}
{{- define "paceline.grafana" -}}{{ include "paceline.prefix" . }}-grafana{{- end -}}

{{- define "paceline.account" -}}
{{- .Values.operator.serviceAccount.name | default (include "paceline.operator" .) -}}
{{- end -}}

{{/* Labels by which the network policies of engines and routers know the operator (policy/resources/network_policy.py). */}}
{{- define "paceline.operatorSelector" -}}
app.kubernetes.io/name: paceline
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "paceline.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "paceline.labels" -}}
{{ include "paceline.operatorSelector" . }}
{{ include "paceline.commonLabels" . }}
{{- end -}}

{{/* Metadata of a namespaced object of the operator: (list $ name) */}}
{{- define "paceline.metadata" -}}
{{- $top := index . 0 -}}
name: {{ index . 1 }}
namespace: {{ $top.Release.Namespace }}
labels: {{- include "paceline.labels" $top | nindent 2 }}
{{- with $top.Values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The same for an object of the whole cluster. Releases in two namespaces must not share it. */}}
{{- define "paceline.clusterMetadata" -}}
{{- $top := index . 0 -}}
name: {{ index . 1 }}
labels: {{- include "paceline.labels" $top | nindent 2 }}
{{- with $top.Values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Name of roles in the cluster: the namespace is part of it, but for the one of the documentation. */}}
{{- define "paceline.clusterName" -}}
{{- if eq .Release.Namespace "paceline-system" -}}{{ include "paceline.operator" . }}
{{- else -}}{{ printf "%s-%s" (include "paceline.operator" .) .Release.Namespace | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "paceline.image" -}}
{{- $image := .Values.operator.image -}}
{{- if $image.digest -}}{{ $image.repository }}@{{ $image.digest }}
{{- else -}}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Security contexts of the restricted Pod Security Standard. */}}
{{- define "paceline.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "paceline.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{/* "true" where an optional kind is to be made: (list $ mode apiVersion/Kind) */}}
{{- define "paceline.wanted" -}}
{{- $top := index . 0 -}}{{- $mode := index . 1 -}}
{{- if or (eq $mode "Always") (and (eq $mode "Auto") ($top.Capabilities.APIVersions.Has (index . 2))) -}}true{{- end -}}
{{- end -}}
