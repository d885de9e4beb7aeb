#!/usr/bin/env bash
# curl 7.88: over HTTP/2, a complete answer to an upload is dropped if the server then stops the upload.
#
# Guessed: a server that needs no more of a body answers in full and sends RST_STREAM with NO_ERROR, and
# clients keep the answer: "Clients MUST NOT discard responses as a result of receiving such a RST_STREAM"
# (RFC 9113, section 8.1). Seen: curl ends with error 92, "Stream error in the HTTP/2 framing layer", with
# no status and no headers. So who pushes a blob with it and is refused (401, 413, 429, 507 …) is not told
# why, and takes it for a broken connection, which is tried again. If the server reads the body to its
# end, or leaves the stream open, the answer arrives.
#
# Version: Debian bookworm's curl 7.88.1, whatever its patch level, with a server by h2 4.4.1 (PyPI).
# Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
chmod 755 "$work"
pid=
finish() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

for package in curl libcurl4; do
    apt-get download -qq "$package" 2>/dev/null
    dpkg-deb -x "$package"_*.deb package
done
libraries=$(dirname "$(find "$work/package" -name libcurl.so.4)")
python3 -m venv environment
environment/bin/pip install -q --disable-pip-version-check h2==4.4.1

cat >server.py <<'PYTHON'
"""Answers each request at its headers. /stopped: and stops the upload. /open: and takes what comes."""
import socket, threading

import h2.config, h2.connection, h2.errors, h2.events

def serve(connection):
    http = h2.connection.H2Connection(config=h2.config.H2Configuration(client_side=False))
    http.initiate_connection()
    connection.sendall(http.data_to_send())
    while data := connection.recv(65536):
        for event in http.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                content = b"too large"
                http.send_headers(event.stream_id, [(":status", "413"), ("content-length", str(len(content)))])
                http.send_data(event.stream_id, content, end_stream=True)
                if dict(event.headers)[b":path"] == b"/stopped":
                    http.reset_stream(event.stream_id, h2.errors.ErrorCodes.NO_ERROR)
            elif isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        connection.sendall(http.data_to_send())

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
PYTHON
curl() { LD_LIBRARY_PATH=$libraries "$work/package/usr/bin/curl" "$@"; }
curl --version | grep -o '^curl 7\.88\.1 '

environment/bin/python server.py >port 2>log &
pid=$!
for _ in $(seq 100); do
    [ ! -s port ] || break
    sleep 0.1
done

head -c 5000000 /dev/zero >body
for path in open stopped; do
    status=0
    answer=$(curl -s --max-time 60 --http2-prior-knowledge -o /dev/null \
        -w '%{http_code}' -H 'expect:' --data-binary @body "http://127.0.0.1:$(cat port)/$path") || status=$?
    echo "$path: status $answer, curl exits $status"
done | tee seen
diff - seen <<'EXPECTED'
open: status 413, curl exits 0
stopped: status 000, curl exits 92
EXPECTED
