#!/usr/bin/env bash
# Builds the OpenTelemetry Collector from its Go modules, with a receiver of OTLP and an exporter to files:
#   tests/operators/traces/collector.sh DIR    leaves DIR/collector; quick when it is there
set -euo pipefail

core=v0.165.0 stable=v1.71.0 contrib=v0.165.1
source=$(cd "$(dirname "$0")" && pwd)/collector.go
directory=${1:?usage: $0 DIR}
mkdir -p "$directory"
cd "$directory"
whole="whole-$core-$contrib-$(sha256sum <"$source" | cut -c1-16)"
if [ -e "$whole" ]; then exit 0; fi
rm -rf ./*

export GOFLAGS=-buildvcs=false CGO_ENABLED=0
cp "$source" main.go
go mod init collector.test
go get "go.opentelemetry.io/collector/otelcol@$core" "go.opentelemetry.io/collector/receiver/otlpreceiver@$core" \
    "go.opentelemetry.io/collector/confmap/provider/fileprovider@$stable" \
    "github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter@$contrib"
go build -mod=mod -o collector .
touch "$whole"
