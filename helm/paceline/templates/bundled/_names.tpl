{{/* Labels and metadata of the bundled programs. Prometheus is known by its label in every NetworkPolicy of Paceline. */}}
{{- define "paceline.prometheusSelector" }}
app.kubernetes.io/name: prometheus
app.kubernetes.io/component: prometheus
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "paceline.prometheusMetadata" }}
name: {{ include "paceline.prometheus" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "paceline.prometheusSelector" . | indent 2 }}
  {{- include "paceline.commonLabels" . | nindent 2 }}
{{- end }}

{{- define "paceline.grafanaSelector" }}
app.kubernetes.io/name: grafana
app.kubernetes.io/component: grafana
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "paceline.grafanaMetadata" }}
name: {{ include "paceline.grafana" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "paceline.grafanaSelector" . | indent 2 }}
  {{- include "paceline.commonLabels" . | nindent 2 }}
{{- end }}
