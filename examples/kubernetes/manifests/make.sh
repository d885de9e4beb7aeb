#!/bin/sh
# Makes these manifests anew from the chart, after it was changed: manifests/make.sh [DIR]. Needs helm.
set -eu
chart=$(dirname "$0")/../chart
to=${1:-$(dirname "$0")}
render() { helm template overlaybd-proxy "$chart" --namespace overlaybd-proxy --kube-version 1.30.0 "$@"; }
render >"$to/overlaybd-proxy.yaml"
render --set enabled=false --set node.enabled=true --set node.proxy=https://proxy.example.com:8480 \
    >"$to/node.yaml"
