#!/bin/sh
# Builds Stoa, installs both programs in one folder, and upgrades an existing store to the layout of this release. It
# never creates a store.
#
#   installer/install.sh [--prefix DIR] [--from DIR] [--store DIR] [--no-migrate]
#
#   --prefix DIR   install into DIR/bin (default: /usr/local for root, else ~/.local)
#   --from DIR     install the two programs from DIR instead of building them
#   --store DIR    the store to upgrade (default: the default store of stoa)
#   --no-migrate   do not upgrade the store; stoa does it at its next start
set -eu
unset CDPATH

say() { printf '%s\n' "$*" >&2; }
fail() { say "install.sh: $1"; exit "${2:-1}"; }

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }

default_prefix() {
    if [ "$(id -u)" = 0 ]; then echo /usr/local; else echo "$HOME/.local"; fi
}

build() { # SOURCE TARGET
    command -v cargo >/dev/null 2>&1 || fail "cannot build: cargo is not in PATH; install Rust, or name built programs with --from" 69
    cargo build --release --locked --manifest-path "$1/Cargo.toml" --target-dir "$2" || fail "the build failed (see above)"
}

# Copies the program to a temporary name and renames it, so the old or the new program can be started at every instant.
put() { # FROM TO
    if [ -d "$2" ]; then fail "cannot install $2: it is a folder; move it away, or choose another folder with --prefix" 73; fi
    if cp "$1" "$2.new.$$" && chmod 755 "$2.new.$$" && mv -f "$2.new.$$" "$2"; then return; fi
    rm -f "$2.new.$$"
    fail "cannot install $2; choose a writable folder with --prefix" 73
}

# Quotes a word for the shell.
quoted() { # WORD
    case $1 in
        *[!a-zA-Z0-9_./=+-]* | '') printf "'%s'" "$(printf '%s\n' "$1" | sed "s/'/'\\\\''/g")" ;;
        *) printf '%s' "$1" ;;
    esac
}

# Prints the layout of an existing store, and nothing otherwise.
layout() { # PROGRAM [--store STORE]
    program=$1
    shift
    "$program" "$@" -q status --format json 2>/dev/null | sed -n 's/.*"layout":"\([a-z0-9]*\)".*/\1/p'
}

# Upgrades an existing store, and prints how to downgrade it again.
migrate() { # BIN STORE
    if [ -n "$2" ]; then set -- "$1" --store "$2"; else set -- "$1"; fi
    program=$1/stoa-migrate
    shift
    command=$(quoted "$program")
    [ $# -eq 0 ] || command="$command --store $(quoted "$2")"
    before=$(layout "$program" "$@")
    if "$program" "$@" --no-create; then
        after=$(layout "$program" "$@")
        if [ -n "$before" ] && [ "$before" != "$after" ]; then
            say "install.sh: upgraded the store from layout $before to $after; no file was copied or rewritten"
            say "install.sh: to go back to the previous release, run: $command --to $before"
        fi
        return
    else
        code=$?
    fi
    say "install.sh: both programs are installed, but the store was not upgraded (exit code $code, see above)"
    say "install.sh: fix the cause, then run: $command"
    exit "$code"
}

main() {
    prefix='' from='' store='' migrate=yes
    while [ $# -gt 0 ]; do
        case $1 in
            --prefix | --from | --store)
                if [ $# -lt 2 ] || [ -z "$2" ]; then fail "$1 needs a folder; see --help" 64; fi
                case $1 in
                    --prefix) prefix=$2 ;;
                    --from) from=$2 ;;
                    --store) store=$2 ;;
                esac
                shift 2
                ;;
            --prefix=* | --from=* | --store=*)
                option=${1%%=*} value=${1#*=}
                shift
                set -- "$option" "$value" "$@"
                ;;
            --no-migrate) migrate=no; shift ;;
            -h | --help) usage; exit 0 ;;
            *) fail "unknown option $1; see --help" 64 ;;
        esac
    done

    if [ -z "$from" ]; then
        source=$(cd -- "$(dirname -- "$0")/.." && pwd)
        target=${CARGO_TARGET_DIR:-$source/target}
        build "$source" "$target"
        from=$target/release
    fi
    for program in stoa stoa-migrate; do
        [ -f "$from/$program" ] || fail "cannot find $from/$program; build it first, or choose another folder with --from" 64
    done
    bin=${prefix:-$(default_prefix)}/bin
    mkdir -p "$bin" || fail "cannot create $bin; choose a writable folder with --prefix" 73
    bin=$(cd "$bin" && pwd) || fail "cannot enter $bin; choose another folder with --prefix" 73
    # The migrator comes first: a new stoa may call it at once, and an old stoa does not call it on a current store.
    put "$from/stoa-migrate" "$bin/stoa-migrate"
    put "$from/stoa" "$bin/stoa"
    if [ "$migrate" = yes ]; then migrate "$bin" "$store"; fi
    say "installed $bin/stoa and $bin/stoa-migrate"
    case ":$PATH:" in
        *":$bin:"*) ;;
        *) say "$bin is not in PATH; to add it: export PATH=$(quoted "$bin"):\$PATH" ;;
    esac
}

main "$@"
