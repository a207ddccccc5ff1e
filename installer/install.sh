#!/bin/sh
# Builds Stoa and installs both programs side by side, then brings a store that is there to the layout of this
# release. It makes no store where there is none.
#
#   installer/install.sh [--prefix DIR] [--from DIR] [--store DIR] [--no-migrate]
#
#   --prefix DIR   install into DIR/bin (default: /usr/local for root, else ~/.local)
#   --from DIR     take the two programs from DIR instead of building them
#   --store DIR    the store to bring along (default: where stoa itself looks)
#   --no-migrate   leave the store to the first start of stoa
set -eu
unset CDPATH

say() { printf '%s\n' "$*" >&2; }
fail() { say "install.sh: $1"; exit "${2:-1}"; }

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }

default_prefix() {
    if [ "$(id -u)" = 0 ]; then echo /usr/local; else echo "$HOME/.local"; fi
}

build() { # SOURCE TARGET
    command -v cargo >/dev/null 2>&1 || fail "cargo is not there; install Rust, or name built programs with --from" 69
    cargo build --release --locked --manifest-path "$1/Cargo.toml" --target-dir "$2" || fail "the build failed; see above"
}

# Copies to a name of its own and renames: whoever starts the program meanwhile gets the old one or the new one.
put() { # FROM TO
    if [ -d "$2" ]; then fail "$2 is a folder where a program belongs; move it away, or name another folder with --prefix" 73; fi
    if cp "$1" "$2.new.$$" && chmod 755 "$2.new.$$" && mv -f "$2.new.$$" "$2"; then return; fi
    rm -f "$2.new.$$"
    fail "cannot install $2; name a folder that you may write to with --prefix" 73
}

# As a shell reads it back.
quoted() { # WORD
    case $1 in
        *[!a-zA-Z0-9_./=+-]* | '') printf "'%s'" "$(printf '%s\n' "$1" | sed "s/'/'\\\\''/g")" ;;
        *) printf '%s' "$1" ;;
    esac
}

# Prints the layout of a store that is there, nothing else. The state itself is the migrator's to judge.
layout() { # PROGRAM [--store STORE]
    program=$1
    shift
    "$program" "$@" -q status --format json 2>/dev/null | sed -n 's/.*"layout":"\([a-z0-9]*\)".*/\1/p'
}

# Brings a store along that is there, and says how to go back if that changed anything.
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
            say "install.sh: the store was brought from layout $before to $after; not one file was copied or rewritten."
            say "install.sh: to go back to what was installed before: $command --to $before"
        fi
        return
    else
        code=$?
    fi
    say "install.sh: both programs are installed, and the store was not brought along (exit code $code, see above)."
    say "install.sh: once that is mended, run: $command"
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
        [ -f "$from/$program" ] || fail "$from/$program is not there; build it first, or name another folder with --from" 64
    done
    bin=${prefix:-$(default_prefix)}/bin
    mkdir -p "$bin" || fail "cannot make $bin; name a folder that you may write to with --prefix" 73
    bin=$(cd "$bin" && pwd) || fail "cannot enter $bin; name another folder with --prefix" 73
    # The migrator first: a new stoa may call it at once, an old one finds the marker of its layout and calls none.
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
