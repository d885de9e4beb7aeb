#!/usr/bin/env bash
# npm's tar-stream: owners above 2097151 are read as 0 from PAX archives, and above 262143 written as
# 262143.
#
# Guessed: a library that applies PAX headers (it does so for names and sizes) applies uid and gid too,
# and writes what does not fit the header's eight characters as PAX or base-256, or fails. Seen: of an
# entry by `tar --format=posix` or by Python's tarfile, owner and group are 0, root's; only the raw map
# `pax` has them. In GNU's format they are right. What it writes is cut to six octal digits without an
# error. Such owners are usual where users are mapped: OpenShift gives each project ids from 1000000000
# on. A layer that is rewritten with it (extract, change, pack) gives all those files to another user.
#
# Version: tar-stream 3.2.2 (npm), with Debian's GNU tar. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm install --silent --no-audit --no-fund --ignore-scripts tar-stream@3.2.2
touch file
for owner in 200000 1000680000; do
    for format in gnu posix; do
        tar --format=$format --owner=user:$owner --group=group:$owner -cf $format-$owner.tar file
    done
done
cat >program.cjs <<'JAVASCRIPT'
const fs = require('fs')
const tar = require('tar-stream')

async function main () {
  for (const archive of process.argv.slice(2)) {
    const extract = tar.extract()
    fs.createReadStream(archive).pipe(extract)
    for await (const entry of extract) {
      const { uid, gid, pax } = entry.header
      console.log(`${archive}: owner ${uid}/${gid}, raw ${pax ? pax.uid : 'none'}`)
      entry.resume()
    }
  }
  const pack = tar.pack()
  for (const uid of [200000, 262143, 262144, 1000680000]) pack.entry({ name: `owner-${uid}`, uid, gid: uid }, '')
  pack.finalize()
  pack.pipe(fs.createWriteStream('written.tar'))
}

main()
JAVASCRIPT
{
    for archive in *.tar; do
        echo "$archive, GNU tar: owner $(tar --numeric-owner -tvf "$archive" | awk '{ print $2 }')"
    done
    node program.cjs gnu-*.tar posix-*.tar
    tar --numeric-owner -tvf written.tar | awk '{ print "written, GNU tar:", $6, $2 }'
} | tee seen
diff - seen <<'EXPECTED'
gnu-1000680000.tar, GNU tar: owner 1000680000/1000680000
gnu-200000.tar, GNU tar: owner 200000/200000
posix-1000680000.tar, GNU tar: owner 1000680000/1000680000
posix-200000.tar, GNU tar: owner 200000/200000
gnu-1000680000.tar: owner 1000680000/1000680000, raw none
gnu-200000.tar: owner 200000/200000, raw none
posix-1000680000.tar: owner 0/0, raw 1000680000
posix-200000.tar: owner 200000/200000, raw undefined
written, GNU tar: owner-200000 200000/200000
written, GNU tar: owner-262143 262143/262143
written, GNU tar: owner-262144 262143/262143
written, GNU tar: owner-1000680000 262143/262143
EXPECTED
