#!/usr/bin/env bash
# `crane export` (go-containerregistry's mutate.Extract): a hard link whose target a higher layer
# replaces gets the new content, and one whose target is removed loses its content.
#
# Guessed: two names of one file are equal: whichever is replaced or removed by a higher layer, the
# other keeps the content. Seen: layers are flattened by name from the top, and the entry of
# a link is kept as it is. If the target was replaced, the link leads to the replacement: the old
# content is gone without an error. If it was removed, the link leads to nothing, and
# GNU tar cannot extract what was exported. If the link is what was replaced, all is right.
#
# Version: github.com/google/go-containerregistry v0.22.1, with Debian's GNU tar. Exits 0 if it still
# behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

GOPATH=$work/go GOBIN=$work GOFLAGS=-modcacherw \
    go install github.com/google/go-containerregistry/cmd/crane@v0.22.1 2>log || { cat log; exit 1; }
cat >image.py <<'PYTHON'
"""Write an image as `docker save` does: a file with a link to it, and a layer of one file (argument 2)."""
import hashlib, io, json, sys, tarfile

def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))

low, top = io.BytesIO(), io.BytesIO()
with tarfile.open(fileobj=low, mode="w") as archive:
    add(archive, "target", b"old")
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.LNKTYPE, "target"
    archive.addfile(link)
with tarfile.open(fileobj=top, mode="w") as archive:
    add(archive, sys.argv[2], b"new" if ".wh." not in sys.argv[2] else b"")
layers = [low.getvalue(), top.getvalue()]
config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {
    "type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]}}
with tarfile.open(sys.argv[1], "w") as image:
    add(image, "config.json", json.dumps(config).encode())
    for number, layer in enumerate(layers):
        add(image, f"{number}.tar", layer)
    add(image, "manifest.json", json.dumps([{"Config": "config.json", "RepoTags": ["a:b"],
                                             "Layers": ["0.tar", "1.tar"]}]).encode())
PYTHON
for top in link .wh.link target .wh.target; do
    python3 image.py image $top
    ./crane export - exported <image
    rm -rf out
    mkdir out
    status=0
    tar -xf exported -C out 2>log || status=$?
    content=$(cd out && { grep -r . || true; } | sort | xargs)
    echo "$top: tar exits $status, ${content:-nothing}"
done | tee seen
diff - seen <<'EXPECTED'
link: tar exits 0, link:new target:old
.wh.link: tar exits 0, target:old
target: tar exits 0, link:new target:new
.wh.target: tar exits 2, nothing
EXPECTED
