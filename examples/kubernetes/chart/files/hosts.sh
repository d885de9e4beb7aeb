#!/bin/sh
# Leads containerd to the proxy: writes DIR/REGISTRY/hosts.toml for each REGISTRY.toml in WANTED, looks
# after them until it is told to end, and takes them away then. A file that it did not write, or that
# was changed since, stays as it is; so does a directory that it did not make. POSIX shell, sha256sum.
#
#   WANTED=DIR     what is to be written: REGISTRY.toml, header.toml, ca.crt; the latter two if wanted
#   CERTS=DIR      containerd's config_path
#   OWNER=NAME     who writes: files of others are left alone
#   SOCKET=FILE    the snapshotter's; header.toml is added only where it is
#   INTERVAL=N     seconds from one look to the next
set -u
: "${WANTED:?}" "${CERTS:?}" "${OWNER:?}" "${SOCKET:=}" "${INTERVAL:=60}"

CA=overlaybd-proxy-ca.crt
told=

# Says something once.
say() {
    case "$told" in
    *"|$1|"*) ;;
    *)
        told="$told|$1|"
        printf '%s\n' "$1"
        ;;
    esac
}

# The first line of a file of ours, which has the rest on standard input. It says which file this is, so
# that a copy of it elsewhere is not ours; its hash, so that what was changed is not; and whether the
# directory was made for it.
first_line() {
    hash=$(sha256sum)
    printf '# overlaybd-proxy %s %s %s %s' "$OWNER" "$1" "$2" "${hash%% *}"
}

# Whether file $1, of name $2, is as it was written here. Sets `made`.
is_ours() {
    made=
    [ -f "$1" ] && [ ! -L "$1" ] || return 1
    IFS= read -r first <"$1" || return 1
    for flag in file directory; do
        if [ "$first" = "$(tail -n +2 "$1" | first_line "$2" "$flag")" ]; then
            made=$flag
            return 0
        fi
    done
    return 1
}

# Writes text $3 to file $1, of name $2, unless something of somebody else's is there. $4 says whether its
# directory was made for it.
put() {
    made=
    if [ -e "$1" ] || [ -L "$1" ]; then
        if ! is_ours "$1" "$2"; then
            say "$1 was not written here, or was changed since: it stays as it is"
            return 1
        fi
    fi
    first=$(printf '%s\n' "$3" | first_line "$2" "${made:-$4}")
    if [ -n "$made" ] && [ "$(cat "$1")" = "$first
$3" ]; then
        return 0
    fi
    # containerd never sees half of it.
    temporary=$1.overlaybd-proxy
    rm -f "$temporary"
    if ! printf '%s\n%s\n' "$first" "$3" >"$temporary"; then
        say "$1 cannot be written"
        rm -f "$temporary"
        return 1
    fi
    if [ -n "$made" ]; then
        mv -f "$temporary" "$1" && printf '%s: written anew\n' "$1"
    else
        # Unlike a rename, a link does not replace what came meanwhile.
        ln "$temporary" "$1" && printf '%s: written\n' "$1"
        rm -f "$temporary"
    fi
}

# Takes file $1, of name $2, away if it is ours, and its directory if that was made for it and is empty.
take_away() {
    is_ours "$1" "$2" || return 0
    rm -f "$1" && printf '%s: taken away\n' "$1"
    if [ "$made" = directory ]; then
        rmdir "${1%/*}" 2>/dev/null
    fi
    return 0
}

# Whether containerd reads certificates from directory $1: it does so only without a hosts.toml.
has_certificates() {
    for file in "$1"/*.crt "$1"/*.cert "$1"/*.key; do
        if [ -e "$file" ]; then return 0; fi
    done
    return 1
}

# Everything as it is wanted now.
look() {
    # What was wanted before.
    for file in "$CERTS"/*/hosts.toml; do
        name=${file%/hosts.toml}
        name=${name##*/}
        if [ ! -e "$WANTED/$name.toml" ]; then take_away "$file" "$name"; fi
    done
    if [ -e "$WANTED/ca.crt" ]; then
        put "$CERTS/$CA" "$CA" "$(cat "$WANTED/ca.crt")" file
    else
        take_away "$CERTS/$CA" "$CA"
    fi
    for file in "$WANTED"/*.toml; do
        name=${file##*/}
        name=${name%.toml}
        directory=$CERTS/$name
        if [ "$name" = header ] || [ ! -e "$file" ]; then continue; fi
        text=$(cat "$file")
        if [ -e "$WANTED/header.toml" ] && [ -S "$SOCKET" ]; then
            text=$text$(printf '\n\n' && cat "$WANTED/header.toml")
        elif [ -e "$WANTED/header.toml" ]; then
            say "no snapshotter listens at $SOCKET: plain tags stay as they are on this node"
        fi
        kind='file'
        if [ ! -d "$directory" ]; then
            if ! mkdir "$directory"; then
                say "$directory cannot be made"
                continue
            fi
            kind=directory
        elif [ ! -e "$directory/hosts.toml" ] && has_certificates "$directory"; then
            say "$directory has certificates, which containerd would no longer read: write a hosts.toml"
            continue
        fi
        if ! put "$directory/hosts.toml" "$name" "$text" "$kind" && [ "$kind" = directory ]; then
            rmdir "$directory" 2>/dev/null
        fi
    done
}

# Takes all of it away.
end() {
    trap '' TERM INT
    if [ -n "$sleeper" ]; then kill "$sleeper" 2>/dev/null; fi
    for file in "$CERTS"/*/hosts.toml; do
        name=${file%/hosts.toml}
        take_away "$file" "${name##*/}"
    done
    take_away "$CERTS/$CA" "$CA"
    exit 0
}

# A look is not cut off: what it began is then taken away, too.
looking='' ending='' sleeper=''
trap 'if [ -n "$looking" ]; then ending=1; else end; fi' TERM INT
while :; do
    looking=1
    look
    looking=
    if [ -n "$ending" ]; then end; fi
    sleep "$INTERVAL" &
    sleeper=$!
    wait "$sleeper"
done
