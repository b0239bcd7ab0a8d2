{{/*
Names and labels. A name may have 63 characters; Kubernetes puts up to 11 behind that of a StatefulSet
for the label `controller-revision-hash`, so ours have 52. One that is cut ends in a hash of the whole
name: two long releases in a namespace do not meet.
*/}}

{{/* Services begin with a letter and have no dots, releases may. */}}
{{- define "estafet.fullname" -}}
{{- $name := .Values.fullnameOverride | default .Release.Name | replace "." "-" -}}
{{- if not (regexMatch "^[a-z]" $name) -}}
{{- $name = printf "estafet-%s" $name -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* The name of a part: (list $ "coreapp"). */}}
{{- define "estafet.name" -}}
{{- $full := include "estafet.fullname" (index . 0) -}}
{{- $suffix := printf "-%s" (index . 1) -}}
{{- $room := sub 52 (len $suffix) | int -}}
{{- if gt (len $full) $room -}}
{{- $full = printf "%s-%s" (trunc (sub $room 9 | int) $full | trimSuffix "-") (sha256sum $full | trunc 8) -}}
{{- end -}}
{{- print $full $suffix -}}
{{- end -}}

{{/* What selects the pods of a part; never changes: (list $ "coreapp"). */}}
{{- define "estafet.selector" -}}
app.kubernetes.io/name: estafet
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "estafet.labels" -}}
{{ include "estafet.selector" . }}
app.kubernetes.io/part-of: estafet
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "estafet.metadata" -}}
name: {{ include "estafet.name" . }}
namespace: {{ (index . 0).Release.Namespace }}
labels:
  {{- include "estafet.labels" . | nindent 2 }}
{{- end -}}

{{- define "estafet.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "estafet.name" (list . "roles")) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "estafet.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A host name within the cluster, of a part: (list $ "coreapp"). */}}
{{- define "estafet.host" -}}
{{- printf "%s.%s.svc" (include "estafet.name" .) (index . 0).Release.Namespace -}}
{{- end -}}

{{/* Every master by its own name: coreapps and webapps talk to all of them. */}}
{{- define "estafet.masters" -}}
{{- $names := list -}}
{{- range $i := until (int .Values.master.replicas) -}}
{{- $names = append $names (printf "%s-%d.%s:6260" (include "estafet.name" (list $ "master")) $i (include "estafet.host" (list $ "master"))) -}}
{{- end -}}
{{- join "," $names -}}
{{- end -}}

{{- define "estafet.networkAddresses" -}}
{{- if .Values.chatd.enabled -}}
{{- printf "%s:5222" (include "estafet.host" (list . "chatd")) -}}
{{- else -}}
{{- join "," .Values.network.addresses -}}
{{- end -}}
{{- end -}}

{{- define "estafet.etcdEndpoints" -}}
{{- if .Values.evaluation.etcd.enabled -}}
{{- printf "http://%s:2379" (include "estafet.host" (list . "etcd")) -}}
{{- else -}}
{{- join "," .Values.etcd.endpoints -}}
{{- end -}}
{{- end -}}

{{- define "estafet.databaseSecret" -}}
{{- if .Values.evaluation.postgresql.enabled -}}
{{- include "estafet.name" (list . "postgresql") -}}
{{- else -}}
{{- .Values.database.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "estafet.databaseKey" -}}
{{- ternary "url" .Values.database.key .Values.evaluation.postgresql.enabled -}}
{{- end -}}

{{- define "estafet.mediaClaim" -}}
{{- with .Values.media.claim -}}
{{- if .existingClaim -}}
{{ .existingClaim }}
{{- else if .size -}}
{{ include "estafet.name" (list $ "media") }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Everything that must not be rendered, at once. */}}
{{- define "estafet.validate" -}}
{{- $wrong := list -}}
{{- with .Values -}}
{{- if not .numbers -}}
{{- $wrong = append $wrong "numbers: at least one business number" -}}
{{- end -}}
{{- if and .evaluation.postgresql.enabled .database.existingSecret -}}
{{- $wrong = append $wrong "database.existingSecret, evaluation.postgresql.enabled: one of both" -}}
{{- else if not (or .evaluation.postgresql.enabled .database.existingSecret) -}}
{{- $wrong = append $wrong "database.existingSecret: a secret with the URL of the message database" -}}
{{- end -}}
{{- if and .evaluation.etcd.enabled .etcd.endpoints -}}
{{- $wrong = append $wrong "etcd.endpoints, evaluation.etcd.enabled: one of both" -}}
{{- else if not (or .evaluation.etcd.enabled .etcd.endpoints) -}}
{{- $wrong = append $wrong "etcd.endpoints: the members of etcd" -}}
{{- end -}}
{{- $encrypted := 0 -}}
{{- range .etcd.endpoints -}}{{- if hasPrefix "https://" . -}}{{- $encrypted = add $encrypted 1 -}}{{- end -}}{{- end -}}
{{- if or (and .etcd.caSecret (ne (int $encrypted) (len .etcd.endpoints))) (and (not .etcd.caSecret) (gt (int $encrypted) 0)) -}}
{{- $wrong = append $wrong "etcd.endpoints, etcd.caSecret: https:// for all members, with their authority, or for none" -}}
{{- end -}}
{{- if and .etcd.clientSecret (not .etcd.caSecret) -}}
{{- $wrong = append $wrong "etcd.clientSecret: needs etcd.caSecret" -}}
{{- end -}}
{{- if and .chatd.enabled .network.addresses -}}
{{- $wrong = append $wrong "network.addresses, chatd.enabled: one of both" -}}
{{- else if not (or .chatd.enabled .network.addresses) -}}
{{- $wrong = append $wrong "network.addresses: HOST:PORT of the network, or chatd.enabled" -}}
{{- end -}}
{{- $claim := or .media.claim.existingClaim .media.claim.size -}}
{{- if and .media.bucket.url $claim -}}
{{- $wrong = append $wrong "media.bucket.url, media.claim: one of both" -}}
{{- else if not (or .media.bucket.url $claim) -}}
{{- $wrong = append $wrong "media.bucket.url, or media.claim.existingClaim or size: where files are kept" -}}
{{- end -}}
{{- if and (has .tls.mode (list "certManager" "csi")) (not .tls.issuer.name) -}}
{{- $wrong = append $wrong "tls.issuer.name: an issuer with an authority of its own" -}}
{{- end -}}
{{- if lt (int .coreapp.terminationGracePeriodSeconds) (add 15 .coreapp.drainSeconds | int) -}}
{{- $wrong = append $wrong "coreapp.terminationGracePeriodSeconds: at least drainSeconds and 15" -}}
{{- end -}}
{{- end -}}
{{- if $wrong -}}
{{- fail (printf "\n\n  %s\n" (join "\n  " $wrong)) -}}
{{- end -}}
{{- end -}}
