#!/usr/bin/env bash
# Gets the programs that look at the chart, through the package clients of Go and Python:
#   tests/operators/install/tools.sh DIR    leaves DIR/helm, DIR/kubeconform and DIR/schemas; quick when they are there
# Helm and kubeconform are built from their modules, some minutes the first time. Kubernetes' schemas
# are those of the Python package kubernetes-validate.
set -euo pipefail

helm=v3.22.0 kubeconform=v0.8.0 validate=1.37.0
directory=${1:?usage: $0 DIR}
mkdir -p "$directory"
cd "$directory"
whole="whole-$helm-$kubeconform-$validate"
if [ -e "$whole" ]; then exit 0; fi
rm -rf ./*

export GOBIN=$PWD GOFLAGS=-buildvcs=false CGO_ENABLED=0
go install "helm.sh/helm/v3/cmd/helm@$helm"
go install "github.com/yannh/kubeconform/cmd/kubeconform@$kubeconform"

python3 -m pip --quiet --disable-pip-version-check download --no-deps --dest wheel "kubernetes-validate==$validate"
mkdir schemas
python3 - wheel/*.whl schemas <<'PYTHON'
import json, pathlib, sys, zipfile
wheel, to = sys.argv[1], pathlib.Path(sys.argv[2])
# The oldest and the newest that the chart is for.
kept = ["v1.30.0-local-strict/", "v1.37.0-local-strict/"]
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        at = name.partition("kubernetes-json-schema/")[2]
        if not at.endswith(".json") or not any(at.startswith(version) for version in kept):
            continue
        # What they refer to is beside them, not where their names say.
        schema = json.loads(archive.read(name).replace(b'"/api/_definitions.json', b'"_definitions.json'))
        schema.pop("$id", None)
        path = to / at
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(schema))
PYTHON
rm -rf wheel
touch "$whole"
