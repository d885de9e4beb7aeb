{{/* What everything is called. */}}
{{- define "overlaybd-proxy.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of a component: (list $ "proxy"). It never changes. */}}
{{- define "overlaybd-proxy.selector" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{- define "overlaybd-proxy.labels" -}}
{{- $root := first . -}}
{{ include "overlaybd-proxy.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "overlaybd-proxy.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "overlaybd-proxy.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Ports of upstreams, of the database, of the collector, of the bucket and of webhooks, with 443, as a JSON list. */}}
{{- define "overlaybd-proxy.egressPorts" -}}
{{- $ports := list 443 -}}
{{- range .Values.upstreams -}}
{{- $url := toString .url -}}
{{- if not (hasPrefix "oci" $url) -}}
{{- $port := regexFind ":[0-9]+(/|$)" $url | trimPrefix ":" | trimSuffix "/" -}}
{{- if $port -}}
{{- $ports = append $ports (int $port) -}}
{{- else if hasPrefix "http://" $url -}}
{{- $ports = append $ports 80 -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.database.existingSecret -}}
{{- $ports = append $ports (int .Values.database.port) -}}
{{- end -}}
{{- range compact (concat (list .Values.otlp.endpoint .Values.blobStore.endpoint) .Values.webhooks.addresses) -}}
{{- $port := regexFind ":[0-9]+(/|$)" . | trimPrefix ":" | trimSuffix "/" -}}
{{- if $port -}}
{{- $ports = append $ports (int $port) -}}
{{- else if hasPrefix "http://" . -}}
{{- $ports = append $ports 80 -}}
{{- end -}}
{{- end -}}
{{- /* A role's credentials come from a service of the node, which has no TLS. */ -}}
{{- if and .Values.blobStore.url (not .Values.blobStore.existingSecret) -}}
{{- $ports = append $ports 80 -}}
{{- end -}}
{{- range .Values.networkPolicy.egressPorts -}}
{{- $ports = append $ports (int .) -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* What cannot work is said before anything is installed. */}}
{{- define "overlaybd-proxy.verify" -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- if not .Values.database.existingSecret -}}
{{- fail "replicas: several replicas share their conversions in a database: set database.existingSecret" -}}
{{- end -}}
{{- if not (or (index .Values.config "push") (index .Values.config "push-repo") .Values.blobStore.url) -}}
{{- fail "replicas: several replicas share their blobs in the registry or in a bucket: set config.push, config.push-repo or blobStore.url" -}}
{{- end -}}
{{- if not .Values.urlKeys.existingSecret -}}
{{- fail "replicas: several replicas need the same keys of signed addresses: set urlKeys.existingSecret" -}}
{{- end -}}
{{- if .Values.persistence.existingClaim -}}
{{- fail "replicas: each replica has a data directory of its own: leave persistence.existingClaim out" -}}
{{- end -}}
{{- end -}}
{{- end -}}
