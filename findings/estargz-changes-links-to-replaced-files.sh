#!/usr/bin/env bash
# estargz: a hard link made before its target was replaced gets the new content, and precedes it.
#
# Guessed: a conversion of a layer to eStargz keeps what its extraction gives. In a tar whose entries
# are file, link to it, file again (as `tar --append` makes them), the link keeps the old
# content and the file has the new: so do GNU tar, Python's tarfile and bsdtar. Seen: of entries
# of one name, estargz.Build drops all but the last. So the link's old content is gone without an
# error, its reader answers the new one for both, and as the link is now before its
# target, GNU tar cannot extract what was built.
#
# Version: github.com/containerd/stargz-snapshotter/estargz v0.16.3, with Debian's GNU tar. Exits 0 if
# it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

echo old >file
ln file link
tar -cf layer.tar file link
rm file
echo new >file
tar --append -f layer.tar file
tar -tvf layer.tar | awk '{ print $1, $6, $7, $8, $9 }'
mkdir plain built
tar -xf layer.tar -C plain
echo "layer: file $(cat plain/file), link $(cat plain/link)" | tee seen

mkdir convert
cat >convert/go.mod <<'MOD'
module convert

go 1.23
MOD
cat >convert/main.go <<'GO'
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/stargz-snapshotter/estargz"
)

func try[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	layer := try(os.ReadFile("../layer.tar"))
	blob := try(estargz.Build(io.NewSectionReader(bytes.NewReader(layer), 0, int64(len(layer)))))
	built := try(io.ReadAll(blob))
	try(0, os.WriteFile("../built.tar.gz", built, 0o600))
	reader := try(estargz.Open(io.NewSectionReader(bytes.NewReader(built), 0, int64(len(built)))))
	fmt.Print("estargz:")
	for _, name := range []string{"file", "link"} {
		content := try(io.ReadAll(try(reader.OpenFile(name))))
		fmt.Printf(" %s %s,", name, strings.TrimSpace(string(content)))
	}
	fmt.Println()
}
GO
(
    cd convert
    export GOPATH=$work/go GOFLAGS=-modcacherw
    go get github.com/containerd/stargz-snapshotter/estargz@v0.16.3 >log 2>&1 && go mod tidy >log 2>&1 || { cat log; exit 1; }
    go run .
) | tee -a seen
status=0
tar -xzf built.tar.gz -C built 2>log || status=$?
echo "built, by tar: exit $status, $(tar -tzf built.tar.gz | grep -E '^(file|link)$' | xargs)" | tee -a seen
diff - seen <<'EXPECTED'
layer: file new, link old
estargz: file new, link new,
built, by tar: exit 2, link file
EXPECTED
