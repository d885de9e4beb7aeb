#!/usr/bin/env bash
# crane and skopeo: a layer compressed by pzstd is taken for one that is not compressed, and compressed
# again.
#
# Guessed: what begins with a skippable frame is Zstandard too (RFC 8878, section 3), as containerd, zstd
# and file(1) have it; pzstd, which comes with zstd, begins every file so. Seen: both look for the magic
# number of a data frame only. `crane append` and `skopeo copy --dest-compress` make gzip of the Zstandard
# file, of type tar+gzip, without an error: an image that no runtime can unpack. crane's even verifies,
# since its configuration has the digest of the Zstandard file for that of the tar (diff_id). With `zstd`
# in place of `pzstd` both are right.
#
# Version: github.com/google/go-containerregistry v0.22.1, Debian bookworm's skopeo 1.9.3+ds1 and zstd
# 1.5.4. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
chmod 755 "$work"
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

GOPATH=$work/go GOBIN=$work GOFLAGS=-modcacherw \
    go install github.com/google/go-containerregistry/cmd/crane@v0.22.1 2>log || { cat log; exit 1; }
apt-get download -qq skopeo zstd libgpgme11 libassuan0 libdevmapper1.02.1 2>/dev/null
for package in *.deb; do dpkg-deb -x "$package" package; done
libraries=$(find package -name '*.so.*' -printf "$work/%h\n" | sort -u | paste -sd:)
skopeo() { LD_LIBRARY_PATH=$libraries package/usr/bin/skopeo --insecure-policy "$@"; }
skopeo --version | grep -o ' 1\.9\.3'

head -c 100000 /dev/zero | tr '\0' x >file
tar -cf layer.tar file
for tool in zstd pzstd; do
    "package/usr/bin/$tool" -q layer.tar -o $tool.tar.zst
done
cat >image.py <<'PYTHON'
"""`write LAYER LAYOUT`: an image of a layer of Zstandard. `tell IMAGE`: what the layer of an image is."""
import hashlib, json, os, subprocess, sys, tarfile

def sha256(content):
    return hashlib.sha256(content).hexdigest()

def write(layer, layout):
    blobs = layout + "/blobs/sha256/"
    os.makedirs(blobs)
    def blob(media_type, content):
        open(blobs + sha256(content), "wb").write(content)
        return {"mediaType": "application/vnd.oci.image." + media_type, "digest": "sha256:" + sha256(content),
                "size": len(content)}
    config = blob("config.v1+json", json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {
        "type": "layers", "diff_ids": ["sha256:" + sha256(open("layer.tar", "rb").read())]}}).encode())
    manifest = blob("manifest.v1+json", json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
        "layers": [blob("layer.v1.tar+zstd", open(layer, "rb").read())]}).encode())
    json.dump({"schemaVersion": 2, "manifests": [manifest]}, open(layout + "/index.json", "w"))
    json.dump({"imageLayoutVersion": "1.0.0"}, open(layout + "/oci-layout", "w"))

def tell(path):
    if path.endswith(".tar"):  # by crane, as `docker save` does
        archive = tarfile.open(path)
        read = lambda name: archive.extractfile(name).read()
        image = json.loads(read("manifest.json"))[0]
        config, name = json.loads(read(image["Config"])), image["Layers"][0]
        kind, layer = name.split(".", 1)[1], read(name)
    else:
        read = lambda descriptor: open(path + "/blobs/" + descriptor["digest"].replace(":", "/"), "rb").read()
        manifest = json.loads(read(json.load(open(path + "/index.json"))["manifests"][0]))
        config, descriptor = json.loads(read(manifest["config"])), manifest["layers"][0]
        kind, layer = descriptor["mediaType"].rsplit(".", 1)[1], read(descriptor)
    found, named = [], "nothing"
    while True:
        found.append("gzip" if layer[:2] == b"\x1f\x8b" else "tar" if layer[257:262] == b"ustar" else "zstd")
        if config["rootfs"]["diff_ids"] == ["sha256:" + sha256(layer)]:
            named = "the " + found[-1]
        if found[-1] == "tar":
            return f"{kind} is {' of '.join(found)}, diff_id names {named}"
        command = ["gzip" if found[-1] == "gzip" else "package/usr/bin/zstd", "-dc"]
        layer = subprocess.run(command, input=layer, capture_output=True, check=True).stdout

if sys.argv[1] == "write":
    write(*sys.argv[2:])
else:
    print(tell(sys.argv[2]))
PYTHON
for tool in zstd pzstd; do
    ./crane append --oci-empty-base -f $tool.tar.zst -t example.com/image:tag -o crane-$tool.tar 2>log || { cat log; exit 1; }
    echo "$tool, crane: $(python3 image.py tell crane-$tool.tar)"
    python3 image.py write $tool.tar.zst oci-$tool
    skopeo copy -q --dest-compress --dest-compress-format gzip oci:oci-$tool oci:skopeo-$tool
    echo "$tool, skopeo: $(python3 image.py tell skopeo-$tool)"
done | tee seen
diff - seen <<'EXPECTED'
zstd, crane: tar.zst is zstd of tar, diff_id names the tar
zstd, skopeo: tar+gzip is gzip of tar, diff_id names the tar
pzstd, crane: tar.gz is gzip of zstd of tar, diff_id names the zstd
pzstd, skopeo: tar+gzip is gzip of zstd of tar, diff_id names the tar
EXPECTED
