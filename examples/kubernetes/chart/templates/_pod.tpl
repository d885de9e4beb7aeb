{{/* The pod of the proxy, of a StatefulSet and of a Deployment alike. */}}
{{- define "overlaybd-proxy.pod" -}}
{{- $etc := "/etc/overlaybd-proxy" -}}
metadata:
  labels:
    {{- include "overlaybd-proxy.labels" (list . "proxy") | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Pods are replaced when the configuration changes.
    checksum/config: {{ include "overlaybd-proxy.config" . | sha256sum | quote }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "overlaybd-proxy.serviceAccount" . | quote }}
  automountServiceAccountToken: false
  # They would look like settings: a service's variables begin with OVERLAYBD_PROXY_.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  containers:
    - name: proxy
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, {{ $etc }}/config/config.toml]
      {{- if or .Values.database.existingSecret .Values.env }}
      env:
        {{- if .Values.database.existingSecret }}
        - name: OVERLAYBD_PROXY_DBSTR
          valueFrom:
            secretKeyRef:
              name: {{ .Values.database.existingSecret | quote }}
              key: {{ .Values.database.key | quote }}
        {{- end }}
        {{- with .Values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      ports:
        - name: registry
          containerPort: 8480
        - name: admin
          containerPort: 8481
      startupProbe:
        httpGet: {path: /livez, port: admin}
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /livez, port: admin}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: admin}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      {{- if gt (int .Values.preStopSleepSeconds) 0 }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ .Values.preStopSleepSeconds }}
      {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: {{ $etc }}/config, readOnly: true}
        - {name: data, mountPath: /var/lib/overlaybd-proxy}
        - {name: tmp, mountPath: /tmp}
        {{- if .Values.tls.existingSecret }}
        - {name: tls, mountPath: {{ $etc }}/tls, readOnly: true}
        {{- end }}
        {{- if .Values.dockerConfig.existingSecret }}
        - {name: docker, mountPath: {{ $etc }}/docker, readOnly: true}
        {{- end }}
        {{- if .Values.urlKeys.existingSecret }}
        - {name: url-keys, mountPath: {{ $etc }}/url-keys, readOnly: true}
        {{- end }}
        {{- if and .Values.otlp.endpoint .Values.otlp.existingSecret }}
        - {name: otlp, mountPath: {{ $etc }}/otlp, readOnly: true}
        {{- end }}
        {{- if .Values.blobStore.existingSecret }}
        - {name: blob-store, mountPath: {{ $etc }}/blob-store, readOnly: true}
        {{- end }}
        {{- if .Values.adminToken.existingSecret }}
        - {name: admin-token, mountPath: {{ $etc }}/admin-token, readOnly: true}
        {{- end }}
        {{- if .Values.notifications.existingSecret }}
        - {name: notifications, mountPath: {{ $etc }}/notifications, readOnly: true}
        {{- end }}
        {{- if .Values.webhooks.existingSecret }}
        - {name: webhooks, mountPath: {{ $etc }}/webhooks, readOnly: true}
        {{- end }}
        {{- if .Values.users.existingSecret }}
        - {name: users, mountPath: {{ $etc }}/users, readOnly: true}
        {{- end }}
        {{- if .Values.upstreamCA.existingConfigMap }}
        - {name: upstream-ca, mountPath: {{ $etc }}/upstream-ca, readOnly: true}
        {{- end }}
        {{- with .Values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "overlaybd-proxy.name" . }}
    - name: tmp
      emptyDir: {sizeLimit: 256Mi}
    {{- if not .Values.persistence.enabled }}
    - name: data
      emptyDir: {sizeLimit: {{ .Values.persistence.size | quote }}}
    {{- else if .Values.persistence.existingClaim }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ .Values.persistence.existingClaim | quote }}
    {{- end }}
    {{- with .Values.tls.existingSecret }}
    - name: tls
      secret: {secretName: {{ . | quote }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.dockerConfig.existingSecret }}
    - name: docker
      secret:
        secretName: {{ . | quote }}
        defaultMode: 0440
        items: [{key: .dockerconfigjson, path: config.json}]
    {{- end }}
    {{- with .Values.urlKeys.existingSecret }}
    - name: url-keys
      secret: {secretName: {{ . | quote }}, defaultMode: 0440}
    {{- end }}
    {{- if and .Values.otlp.endpoint .Values.otlp.existingSecret }}
    - name: otlp
      secret: {secretName: {{ .Values.otlp.existingSecret | quote }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.blobStore.existingSecret }}
    - name: blob-store
      secret: {secretName: {{ . | quote }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.adminToken.existingSecret }}
    - name: admin-token
      secret: {secretName: {{ . | quote }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.notifications.existingSecret }}
    - name: notifications
      secret: {secretName: {{ . | quote }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.webhooks.existingSecret }}
    - name: webhooks
      secret: {secretName: {{ . | quote }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.users.existingSecret }}
    - name: users
      secret: {secretName: {{ . | quote }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.upstreamCA.existingConfigMap }}
    - name: upstream-ca
      configMap: {name: {{ . | quote }}}
    {{- end }}
    {{- with .Values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
