#!/usr/bin/env bash
# s3s-fs 0.14 has no fixed set of buckets: an object that is put into a bucket that is not there
# makes the bucket, and a bucket is deleted with the objects in it.
#
# Guessed: 404 NoSuchBucket to the first and 409 BucketNotEmpty to the second, as Amazon's S3 API
# says (PutObject, DeleteBucket); a client with a typo in the bucket's name, or a clean-up that relies on
# full buckets staying, is then seen to fail in a test. Seen: 200, and the bucket is in the list from then
# on; 204, and the objects are gone. An object of a bucket that is not there is NoSuchKey, as if the
# bucket were; only a list of it is NoSuchBucket.
#
# Version: crates.io's s3s-fs 0.14.1. Needs cargo (tried with Rust 1.95) and curl; compiles for some
# minutes. Exits 0 if it still behaves so.
set -euo pipefail
version=0.14.1
work=$(mktemp -d)
pid=
finish() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

cargo install --quiet --debug --locked --version "$version" --features binary --root . --target-dir build s3s-fs 2>install.log ||
    { cat install.log >&2; exit 1; }
mkdir data
port=$((20000 + RANDOM % 20000))
bin/s3s-fs --host 127.0.0.1 --port "$port" --access-key key --secret-key secret data >log 2>&1 &
pid=$!

# curl 7.88 signs without the header that names the sum of the body, which S3 needs.
s3() {
    curl -s --aws-sigv4 aws:amz:us-east-1:s3 --user key:secret \
        -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "$@"
}
base=http://127.0.0.1:$port
for _ in $(seq 100); do
    curl -s -o /dev/null "$base/" && break
    sleep 0.1
done

code() { grep -o '<Code>[A-Za-z]*' | cut -c7-; }
status() { s3 -o /dev/null -w '%{http_code}' "$@"; }
has_bucket() { s3 "$base/" | grep -c '<Name>misspelt</Name>' || true; }

printf 'bytes' >object
list=$(s3 "$base/misspelt?list-type=2" | code)
get=$(s3 "$base/misspelt/object" | code)
before=$(has_bucket)
put=$(status -T object "$base/misspelt/object")
after=$(has_bucket)
there=$(s3 "$base/misspelt/object")
delete=$(status -X DELETE "$base/misspelt")
gone=$(s3 "$base/misspelt/object" | code)
last=$(has_bucket)

echo "s3s-fs $version: list of a bucket that is not there: $list, an object of it: $get"
echo "an object put into it: $put, buckets of its name before and after: $before and $after"
echo "the bucket with the object deleted: $delete, the object then: $gone, buckets: $last"
[ "$list $get" = 'NoSuchBucket NoSuchKey' ] && [ "$before $put $after $there" = '0 200 1 bytes' ] &&
    [ "$delete $gone $last" = '204 NoSuchKey 0' ]
