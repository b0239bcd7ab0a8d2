{{/*
Certificates between the roles: one role URI each, the name under which others dial it (docs/tls.md). Called with
(list $ "ROLE"). Masters share one, webapps share one; each coreapp has its own, because it reports under its name.
*/}}

{{/* The directory of a pod's files, and their names. */}}
{{- define "estafet.env.tls" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- $mode := $root.Values.tls.mode -}}
{{- if eq $mode "secret" -}}
{{- $holder := ternary "coreapp-$(POD_NAME)" (printf "%s-%s" $role $role) (eq $role "coreapp") -}}
{{- include "estafet.env.tlsFiles" (list "/etc/estafet/tls" "ca.pem" (printf "%s.pem" $holder) (printf "%s-key.pem" $holder)) -}}
{{- else if and (eq $mode "certManager") (eq $role "coreapp") -}}
{{- include "estafet.env.tlsFiles" (list "/etc/estafet/tls/$(POD_NAME)" "ca.crt" "tls.crt" "tls.key") -}}
{{- else if ne $mode "off" -}}
{{- include "estafet.env.tlsFiles" (list "/etc/estafet/tls" "ca.crt" "tls.crt" "tls.key") -}}
{{- end -}}
{{- end -}}

{{- define "estafet.env.tlsFiles" -}}
- name: ESTAFET_TLS_CA
  value: {{ printf "%s/%s" (index . 0) (index . 1) }}
- name: ESTAFET_TLS_CERT
  value: {{ printf "%s/%s" (index . 0) (index . 2) }}
- name: ESTAFET_TLS_KEY
  value: {{ printf "%s/%s" (index . 0) (index . 3) }}
{{- end -}}

{{/* Who holds certificates of a role: node names, separated by spaces. */}}
{{- define "estafet.holders" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- if eq $role "coreapp" -}}
{{- $nodes := list -}}
{{- range $i := until (int $root.Values.coreapp.replicas) -}}
{{- $nodes = append $nodes (printf "%s-%d" (include "estafet.name" (list $root "coreapp")) $i) -}}
{{- end -}}
{{- join " " $nodes -}}
{{- else -}}
{{- $role -}}
{{- end -}}
{{- end -}}

{{/* The secret of a role: for masters, webapps and the operator with either tool, for coreapps of `estafet certs`. */}}
{{- define "estafet.tlsSecret" -}}
{{- $root := index . 0 -}}
{{- index $root.Values.tls.existingSecrets (index . 1) | default (printf "%s-tls" (include "estafet.name" .)) -}}
{{- end -}}

{{- define "estafet.tlsVolume" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- $tls := $root.Values.tls -}}
- name: tls
{{- if eq $tls.mode "secret" }}
  secret: { secretName: {{ include "estafet.tlsSecret" . }} }
{{- else if eq $tls.mode "csi" }}
  csi:
    driver: csi.cert-manager.io
    readOnly: true
    volumeAttributes:
      csi.cert-manager.io/issuer-name: {{ $tls.issuer.name | quote }}
      csi.cert-manager.io/issuer-kind: {{ $tls.issuer.kind | quote }}
      csi.cert-manager.io/issuer-group: {{ $tls.issuer.group | quote }}
      csi.cert-manager.io/uri-sans: {{ printf "spiffe://estafet/%s/%s/%s" $tls.cluster $role (ternary "${POD_NAME}" $role (eq $role "coreapp")) | quote }}
      {{- if has $role (list "master" "coreapp") }}
      csi.cert-manager.io/dns-names: {{ printf "${POD_NAME}.%s" (include "estafet.host" .) | quote }}
      {{- end }}
      csi.cert-manager.io/key-usages: "digital signature,server auth,client auth"
      csi.cert-manager.io/duration: {{ $tls.duration | quote }}
      csi.cert-manager.io/renew-before: {{ $tls.renewBefore | quote }}
      csi.cert-manager.io/fs-group: "65532"
{{- else if eq $role "coreapp" }}
  projected:
    sources:
      {{- range splitList " " (include "estafet.holders" .) }}
      - secret:
          name: {{ . }}-tls
          items:
            - { key: ca.crt, path: {{ . }}/ca.crt }
            - { key: tls.crt, path: {{ . }}/tls.crt }
            - { key: tls.key, path: {{ . }}/tls.key }
      {{- end }}
{{- else }}
  secret: { secretName: {{ include "estafet.tlsSecret" . }} }
{{- end }}
{{- end -}}
