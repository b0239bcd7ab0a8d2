{{/* The environment of each role: the variables that `estafet ROLE --help` lists. */}}

{{- define "estafet.env.database" -}}
- name: ESTAFET_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "estafet.databaseSecret" . }}
      key: {{ include "estafet.databaseKey" . }}
{{- end -}}

{{- define "estafet.env.etcd" -}}
- name: ESTAFET_ETCD
  value: {{ include "estafet.etcdEndpoints" . | quote }}
- name: ESTAFET_ETCD_PREFIX
  value: {{ .Values.etcd.prefix | quote }}
{{- if .Values.etcd.caSecret }}
- name: ESTAFET_ETCD_CA
  value: /etc/estafet/etcd/ca.crt
{{- if .Values.etcd.clientSecret }}
- name: ESTAFET_ETCD_CERT
  value: /etc/estafet/etcd/tls.crt
- name: ESTAFET_ETCD_KEY
  value: /etc/estafet/etcd/tls.key
{{- end }}
{{- end }}
{{- with .Values.etcd.authSecret }}
- name: ESTAFET_ETCD_USER
  valueFrom: { secretKeyRef: { name: {{ . }}, key: username } }
- name: ESTAFET_ETCD_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ . }}, key: password } }
{{- end }}
{{- end -}}

{{- define "estafet.env.media" -}}
{{- with .Values.media.bucket -}}
{{- if .url }}
- name: ESTAFET_MEDIA_STORE
  value: {{ .url | quote }}
{{- with .endpoint }}
- name: ESTAFET_MEDIA_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .region }}
- name: ESTAFET_MEDIA_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .existingSecret }}
- name: ESTAFET_MEDIA_ACCESS_KEY_ID
  valueFrom: { secretKeyRef: { name: {{ . }}, key: access-key-id } }
- name: ESTAFET_MEDIA_SECRET_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ . }}, key: secret-access-key } }
{{- end }}
{{- end }}
{{- end }}
{{- if include "estafet.mediaClaim" . }}
- name: ESTAFET_MEDIA_STORE
  value: file:///var/lib/estafet/media
{{- end }}
{{- end -}}

{{- define "estafet.env.templates" -}}
{{- with .Values.templates }}
{{- $files := list -}}
{{- range $name, $_ := . -}}
{{- $files = append $files (printf "/etc/estafet/templates/%s" $name) -}}
{{- end }}
- name: ESTAFET_TEMPLATES
  value: {{ join "," $files | quote }}
{{- end }}
{{- end -}}

{{- define "estafet.env.master" -}}
- name: ESTAFET_LISTEN
  value: {{ printf "%s:6260" .Values.listenHost | quote }}
- name: ESTAFET_ADVERTISE
  value: {{ printf "$(POD_NAME).%s:6260" (include "estafet.host" (list . "master")) | quote }}
{{ include "estafet.env.etcd" . }}
{{ include "estafet.env.database" . }}
{{ include "estafet.env.tls" (list . "master") }}
- name: ESTAFET_NUMBER
  value: {{ join "," .Values.numbers | quote }}
- name: ESTAFET_SHARDS
  value: {{ .Values.shards | quote }}
{{- end -}}

{{- define "estafet.env.coreapp" -}}
- name: ESTAFET_NODE
  value: $(POD_NAME)
- name: ESTAFET_LISTEN
  value: {{ printf "%s:6250" .Values.listenHost | quote }}
- name: ESTAFET_ADVERTISE
  value: {{ printf "$(POD_NAME).%s:6250" (include "estafet.host" (list . "coreapp")) | quote }}
- name: ESTAFET_MASTER
  value: {{ include "estafet.masters" . | quote }}
{{ include "estafet.env.etcd" . }}
{{ include "estafet.env.database" . }}
{{ include "estafet.env.tls" (list . "coreapp") }}
- name: ESTAFET_NETWORK
  value: {{ include "estafet.networkAddresses" . | quote }}
{{- with .Values.network.key }}
- name: ESTAFET_NETWORK_KEY
  value: {{ . | quote }}
{{- end }}
{{- include "estafet.env.media" . }}
{{- with .Values.coreapp }}
- name: ESTAFET_MAX_OUTBOX
  value: {{ int64 .maxOutbox | quote }}
- name: ESTAFET_NUMBER_PER_SECOND
  value: {{ int64 .numberPerSecond | quote }}
- name: ESTAFET_PAIR_PER_MINUTE
  value: {{ int64 .pairPerMinute | quote }}
- name: ESTAFET_MEDIA_ALLOW_PRIVATE_LINKS
  value: {{ .allowPrivateLinks | quote }}
- name: ESTAFET_DRAIN_SECONDS
  value: {{ .drainSeconds | quote }}
{{- end }}
{{- end -}}

{{- define "estafet.env.webapp" -}}
- name: ESTAFET_LISTEN
  value: {{ printf "%s:8443" .Values.listenHost | quote }}
- name: ESTAFET_MASTER
  value: {{ include "estafet.masters" . | quote }}
{{ include "estafet.env.database" . }}
{{ include "estafet.env.tls" (list . "webapp") }}
{{- include "estafet.env.media" . }}
{{- include "estafet.env.templates" . }}
{{- with .Values.webapp }}
{{- if .admin.existingSecret }}
- name: ESTAFET_ADMIN_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ .admin.existingSecret }}, key: {{ .admin.key }} } }
{{- end }}
{{- if .apiKey.existingSecret }}
- name: ESTAFET_API_KEY
  valueFrom: { secretKeyRef: { name: {{ .apiKey.existingSecret }}, key: {{ .apiKey.key }} } }
{{- end }}
{{- if .https.existingSecret }}
- name: ESTAFET_HTTPS_CERT
  value: /etc/estafet/https/tls.crt
- name: ESTAFET_HTTPS_KEY
  value: /etc/estafet/https/tls.key
{{- end }}
{{- with .webhookUrl }}
- name: ESTAFET_WEBHOOK_URL
  value: {{ . | quote }}
{{- end }}
- name: ESTAFET_MAX_UPLOAD_BYTES
  value: {{ int64 .maxUploadBytes | quote }}
- name: ESTAFET_MESSAGES_PER_SECOND
  value: {{ int64 .messagesPerSecond | quote }}
- name: ESTAFET_REQUESTS_PER_SECOND
  value: {{ int64 .requestsPerSecond | quote }}
{{- end }}
{{- end -}}

{{- define "estafet.env.chatd" -}}
- name: ESTAFET_LISTEN
  value: {{ printf "%s:5222" .Values.listenHost | quote }}
- name: ESTAFET_DATA_DIR
  value: /var/lib/estafet/chatd
- name: ESTAFET_CONTROL
  value: 127.0.0.1:9090
{{- include "estafet.env.templates" . }}
{{- with .Values.chatd }}
- name: ESTAFET_PHONES
  value: {{ int64 .phones | quote }}
- name: ESTAFET_KEEP_MESSAGES_DAYS
  value: {{ .keepMessagesDays | quote }}
- name: ESTAFET_KEEP_FILES_DAYS
  value: {{ .keepFilesDays | quote }}
{{- end }}
{{- end -}}

{{- define "estafet.ports.master" -}}
- { name: grpc, containerPort: 6260 }
{{- end -}}
{{- define "estafet.ports.coreapp" -}}
- { name: grpc, containerPort: 6250 }
{{- end -}}
{{- define "estafet.ports.webapp" -}}
- { name: api, containerPort: 8443 }
{{- end -}}
{{- define "estafet.ports.chatd" -}}
- { name: network, containerPort: 5222 }
{{- end -}}
