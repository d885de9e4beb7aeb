#!/bin/sh
# Makes a certificate authority for development, with a server's and a client's certificate.
# usage: certs/make.sh [DIRECTORY [NAME-OR-ADDRESS...]]
# The directory is certs/dev unless given; localhost, 127.0.0.1 and ::1 are always named.
set -eu

case "${1:-}" in
-h | --help)
    sed -n '2,4s/^# //p' "$0"
    exit 0
    ;;
esac
command -v openssl >/dev/null || {
    echo "$0: openssl is missing: install it (Debian: apt-get install openssl)" >&2
    exit 1
}

directory=${1:-$(dirname "$0")/dev}
[ $# -gt 0 ] && shift
mkdir -p "$directory"
cd "$directory"
umask 077

names='DNS:localhost,IP:127.0.0.1,IP:::1'
for name in "$@"; do
    case "$name" in
    *:* | *[!0-9.]*) case "$name" in *:*) names="$names,IP:$name" ;; *) names="$names,DNS:$name" ;; esac ;;
    *) names="$names,IP:$name" ;;
    esac
done

key() {
    openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1"
}

# sign NAME SUBJECT EXTENSIONS: a certificate for NAME.key, signed by the authority
sign() {
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    printf '%s\n' "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 825 -sha256 \
        -extfile "$1.ext" -out "$1.crt" 2>/dev/null
    rm -f "$1.csr" "$1.ext"
}

if [ ! -f ca.key ]; then
    key ca.key
    openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj '/CN=overlaybd-proxy development CA' \
        -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign' \
        -out ca.crt
fi
key server.key
sign server '/CN=overlaybd-proxy' "subjectAltName=$names
extendedKeyUsage=serverAuth
basicConstraints=CA:FALSE"
key client.key
sign client '/CN=developer' 'extendedKeyUsage=clientAuth
basicConstraints=CA:FALSE'
chmod 644 ca.crt server.crt client.crt

echo "made in $PWD: ca.crt server.crt server.key client.crt client.key ($names)"
