{{/* Keys of TOML. Texts, numbers, booleans and lists of them are written as in JSON. */}}
{{- define "overlaybd-proxy.toml" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The configuration file. */}}
{{- define "overlaybd-proxy.config" -}}
{{- $etc := "/etc/overlaybd-proxy" -}}
listen = "0.0.0.0:8480"
admin = "0.0.0.0:8481"
data-dir = "/var/lib/overlaybd-proxy"
cache-size = {{ toJson .Values.cacheSize }}
docker-config = {{ if .Values.dockerConfig.existingSecret }}"{{ $etc }}/docker/config.json"{{ else }}"none"{{ end }}
{{- if .Values.tls.existingSecret }}
tls-cert = "{{ $etc }}/tls/tls.crt"
tls-key = "{{ $etc }}/tls/tls.key"
{{- end }}
{{- if .Values.urlKeys.existingSecret }}
url-key-file = "{{ $etc }}/url-keys/{{ .Values.urlKeys.key }}"
{{- end }}
{{- if .Values.otlp.endpoint }}
otlp-endpoint = {{ toJson .Values.otlp.endpoint }}
{{- if .Values.otlp.existingSecret }}
otlp-headers-file = "{{ $etc }}/otlp/{{ .Values.otlp.key }}"
{{- end }}
{{- end }}
{{- with .Values.blobStore.url }}
blob-store = {{ toJson . }}
{{- end }}
{{- with .Values.blobStore.endpoint }}
blob-store-endpoint = {{ toJson . }}
{{- end }}
{{- if .Values.blobStore.existingSecret }}
blob-store-credentials-file = "{{ $etc }}/blob-store/{{ .Values.blobStore.key }}"
{{- end }}
{{- if .Values.adminToken.existingSecret }}
admin-token-file = "{{ $etc }}/admin-token/{{ .Values.adminToken.key }}"
{{- end }}
{{- if .Values.notifications.existingSecret }}
notification-secret-file = "{{ $etc }}/notifications/{{ .Values.notifications.key }}"
{{- end }}
{{- with .Values.webhooks.addresses }}
webhook = {{ toJson . }}
{{- end }}
{{- if .Values.webhooks.existingSecret }}
webhook-secret-file = "{{ $etc }}/webhooks/{{ .Values.webhooks.key }}"
{{- end }}
{{- if .Values.users.existingSecret }}
htpasswd = "{{ $etc }}/users/{{ .Values.users.key }}"
{{- end }}
{{- if .Values.upstreamCA.existingConfigMap }}
upstream-ca = "{{ $etc }}/upstream-ca/{{ .Values.upstreamCA.key }}"
{{- end }}
{{- include "overlaybd-proxy.toml" .Values.config }}
{{- range .Values.upstreams }}

[[upstream]]
{{- include "overlaybd-proxy.toml" . }}
{{- end }}
{{- range .Values.policy }}

[[policy]]
{{- include "overlaybd-proxy.toml" . }}
{{- end }}
{{- end -}}
