{{/*
The pods of the roles: what all have in common. The environment of each role is `estafet.env.ROLE`. Everything
is called with (list $ "ROLE").
*/}}

{{- define "estafet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "estafet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* A role's pods away from each other. */}}
{{- define "estafet.spread" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- $values := index $root.Values $role -}}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- else }}
affinity:
  podAntiAffinity:
    {{- if eq $root.Values.spread.machines "required" }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "estafet.selector" (list $root $role) | nindent 12 }}
    {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "estafet.selector" (list $root $role) | nindent 14 }}
    {{- end }}
{{- end }}
{{- if $root.Values.spread.zones }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "estafet.selector" (list $root $role) | nindent 8 }}
{{- end }}
{{- end -}}

{{- define "estafet.pod" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- $values := index $root.Values $role -}}
metadata:
  labels:
    {{- include "estafet.selector" . | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "estafet.serviceAccountName" $root }}
  automountServiceAccountToken: false
  # Variables about services in the namespace would begin like our own.
  enableServiceLinks: false
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  securityContext:
    {{- include "estafet.podSecurity" $root | nindent 4 }}
  {{- include "estafet.spread" . | trim | nindent 2 }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if and (eq $role "coreapp") (gt (int $values.startDelaySeconds) 0) }}
  initContainers:
    - name: settle
      image: {{ include "estafet.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [sleep, {{ $values.startDelaySeconds | quote }}]
      securityContext:
        {{- include "estafet.containerSecurity" $root | nindent 8 }}
      resources:
        requests: { cpu: 10m, memory: 16Mi }
        limits: { cpu: 100m, memory: 32Mi }
  {{- end }}
  containers:
    - name: {{ $role }}
      image: {{ include "estafet.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args:
        - {{ $role }}
        {{- range $values.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      env:
        - name: POD_NAME
          valueFrom: { fieldRef: { fieldPath: metadata.name } }
        - name: ESTAFET_LOG
          value: {{ $root.Values.log.filter | quote }}
        - name: ESTAFET_LOG_JSON
          value: {{ $root.Values.log.json | quote }}
        - name: ESTAFET_OPS_LISTEN
          value: {{ printf "%s:9102" $root.Values.listenHost | quote }}
        {{- include (printf "estafet.env.%s" $role) $root | trim | nindent 8 }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- include (printf "estafet.ports.%s" $role) $root | trim | nindent 8 }}
        - { name: ops, containerPort: 9102 }
      livenessProbe:
        httpGet: { path: /livez, port: ops }
        periodSeconds: 10
        timeoutSeconds: 2
        failureThreshold: 3
      readinessProbe:
        httpGet: { path: /readyz, port: ops }
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      {{- if and (eq $role "webapp") (gt (int $values.preStopSeconds) 0) }}
      lifecycle:
        preStop:
          {{- if semverCompare ">=1.30.0-0" $root.Capabilities.KubeVersion.Version }}
          sleep: { seconds: {{ $values.preStopSeconds }} }
          {{- else }}
          exec: { command: [sleep, {{ $values.preStopSeconds | quote }}] }
          {{- end }}
      {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      securityContext:
        {{- include "estafet.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - { name: tmp, mountPath: /tmp }
        {{- include "estafet.mounts" . | trim | nindent 8 }}
  volumes:
    - name: tmp
      emptyDir: { sizeLimit: 64Mi }
    {{- include "estafet.volumes" . | trim | nindent 4 }}
{{- end -}}

{{/* What a role uses: (list $ "ROLE" "USE"). */}}
{{- define "estafet.uses" -}}
{{- $uses := dict
  "master" (list "tls" "database" "etcd")
  "coreapp" (list "tls" "database" "etcd" "media")
  "webapp" (list "tls" "database" "media" "templates" "https")
  "chatd" (list "templates") -}}
{{- if has (index . 2) (index $uses (index . 1)) -}}yes{{- end -}}
{{- end -}}

{{- define "estafet.mounts" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- if and (ne $root.Values.tls.mode "off") (include "estafet.uses" (list $root $role "tls")) }}
- { name: tls, mountPath: /etc/estafet/tls, readOnly: true }
{{- end }}
{{- if and $root.Values.database.caSecret (include "estafet.uses" (list $root $role "database")) }}
- { name: database-ca, mountPath: /etc/estafet/database, readOnly: true }
{{- end }}
{{- if and $root.Values.etcd.caSecret (include "estafet.uses" (list $root $role "etcd")) }}
- { name: etcd-tls, mountPath: /etc/estafet/etcd, readOnly: true }
{{- end }}
{{- if and (include "estafet.mediaClaim" $root) (include "estafet.uses" (list $root $role "media")) }}
- { name: media, mountPath: /var/lib/estafet/media }
{{- end }}
{{- if and $root.Values.templates (include "estafet.uses" (list $root $role "templates")) }}
- { name: templates, mountPath: /etc/estafet/templates, readOnly: true }
{{- end }}
{{- if and $root.Values.webapp.https.existingSecret (include "estafet.uses" (list $root $role "https")) }}
- { name: https, mountPath: /etc/estafet/https, readOnly: true }
{{- end }}
{{- if eq $role "chatd" }}
- { name: data, mountPath: /var/lib/estafet }
{{- end }}
{{- end -}}

{{- define "estafet.volumes" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- if and (ne $root.Values.tls.mode "off") (include "estafet.uses" (list $root $role "tls")) }}
{{ include "estafet.tlsVolume" . }}
{{- end }}
{{- if and $root.Values.database.caSecret (include "estafet.uses" (list $root $role "database")) }}
- name: database-ca
  secret: { secretName: {{ $root.Values.database.caSecret }}, items: [{ key: ca.crt, path: ca.crt }] }
{{- end }}
{{- if and $root.Values.etcd.caSecret (include "estafet.uses" (list $root $role "etcd")) }}
- name: etcd-tls
  projected:
    sources:
      - secret: { name: {{ $root.Values.etcd.caSecret }}, items: [{ key: ca.crt, path: ca.crt }] }
      {{- with $root.Values.etcd.clientSecret }}
      - secret:
          name: {{ . }}
          items: [{ key: tls.crt, path: tls.crt }, { key: tls.key, path: tls.key }]
      {{- end }}
{{- end }}
{{- if and (include "estafet.mediaClaim" $root) (include "estafet.uses" (list $root $role "media")) }}
- name: media
  persistentVolumeClaim: { claimName: {{ include "estafet.mediaClaim" $root }} }
{{- end }}
{{- if and $root.Values.templates (include "estafet.uses" (list $root $role "templates")) }}
- name: templates
  configMap: { name: {{ include "estafet.name" (list $root "templates") }} }
{{- end }}
{{- if and $root.Values.webapp.https.existingSecret (include "estafet.uses" (list $root $role "https")) }}
- name: https
  secret: { secretName: {{ $root.Values.webapp.https.existingSecret }} }
{{- end }}
{{- end -}}
