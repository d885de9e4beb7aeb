#!/usr/bin/env bash
# `crane export` (go-containerregistry's mutate.Extract): a whiteout also removes what its own layer
# puts in the place, if the whiteout comes first.
#
# Guessed: a whiteout hides what lower layers have and nothing of its own layer, in whatever order
# (the image specification says so of files in the same layer). So a layer `.wh.dir, dir, dir/new`
# replaces a directory. Seen: the directory and the file are gone from all that is exported, without an
# error. With the whiteout behind them they are there, and the lower
# layer's file is hidden. For a file in place of a file it is the same.
#
# Version: github.com/google/go-containerregistry v0.22.1. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

GOPATH=$work/go GOBIN=$work GOFLAGS=-modcacherw \
    go install github.com/google/go-containerregistry/cmd/crane@v0.22.1 2>log || { cat log; exit 1; }
cat >image.py <<'PYTHON'
"""Write an image as `docker save` does. Arguments: OUTPUT LAYER..., a layer is names with commas."""
import hashlib, io, json, sys, tarfile

def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    if name.endswith("/"):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(member, io.BytesIO(content))

layers = []
for number, names in enumerate(sys.argv[2:]):
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name in names.split(","):
            add(archive, name, b"" if ".wh." in name or name.endswith("/") else b"layer %d" % number)
    layers.append(layer.getvalue())
config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {
    "type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]}}
with tarfile.open(sys.argv[1], "w") as image:
    add(image, "config.json", json.dumps(config).encode())
    for number, layer in enumerate(layers):
        add(image, f"{number}.tar", layer)
    add(image, "manifest.json", json.dumps([{"Config": "config.json", "RepoTags": ["a:b"],
                                             "Layers": [f"{n}.tar" for n in range(len(layers))]}]).encode())
PYTHON
low=dir/,dir/old,file,kept
for top in dir/,dir/new,.wh.dir .wh.dir,dir/,dir/new file,.wh.file .wh.file,file; do
    python3 image.py image $low $top
    ./crane export - exported <image
    echo "$top: $(tar -tf exported | sort | xargs)"
done | tee seen
diff - seen <<'EXPECTED'
dir/,dir/new,.wh.dir: dir dir/new file kept
.wh.dir,dir/,dir/new: file kept
file,.wh.file: dir dir/old file kept
.wh.file,file: dir dir/old kept
EXPECTED
