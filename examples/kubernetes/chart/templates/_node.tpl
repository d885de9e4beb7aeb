{{/* The directory of a registry's hosts.toml: HOST, or HOST_PORT_. */}}
{{- define "overlaybd-proxy.hostDirectory" -}}
{{- if contains ":" . -}}{{ replace ":" "_" . }}_{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* A hosts.toml: (dict "node" .Values.node "registry" ENTRY). */}}
{{- define "overlaybd-proxy.hosts" -}}
{{- $server := .registry.server | default (printf "https://%s" .registry.host) -}}
{{- if ne .registry.host "_default" -}}
server = {{ toJson $server }}

{{ end -}}
[host.{{ toJson .node.proxy }}]
  capabilities = ["pull", "resolve"]
  dial_timeout = {{ toJson .node.dialTimeout }}
{{- if .node.ca.existingConfigMap }}
  ca = {{ toJson (printf "%s/overlaybd-proxy-ca.crt" (trimSuffix "/" .node.certsDir)) }}
{{- end }}
{{- end -}}

{{/* Everything that the pods on nodes are given. */}}
{{- define "overlaybd-proxy.nodeData" -}}
{{- if not (regexMatch "^https?://[^/]+$" .Values.node.proxy) -}}
{{- fail "node.proxy: http://HOST:PORT or https://HOST:PORT is expected, as nodes reach the proxy" -}}
{{- end -}}
hosts.sh: |
  {{- .Files.Get "files/hosts.sh" | trim | nindent 2 }}
{{- range .Values.node.registries }}
{{ include "overlaybd-proxy.hostDirectory" .host }}.toml: |
  {{- include "overlaybd-proxy.hosts" (dict "node" $.Values.node "registry" .) | nindent 2 }}
{{- end }}
{{- with .Values.node.format }}
header.toml: |
  [host.{{ toJson $.Values.node.proxy }}.header]
    Overlaybd-Format = {{ toJson . }}
{{- end }}
{{- end -}}
