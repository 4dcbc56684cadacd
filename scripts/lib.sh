# Shared by every script: where things live, how to speak, how to build a thing once.
#
# Sourced by ./dev, never run. Nothing here writes outside the cache folder and the checkout.

CACHE=${ANTIPODE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/antipode}
STATE=$ROOT/.antipode
ARCH=$(uname -m)

if [[ -t 2 ]]; then BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' PLAIN=$'\e[0m'; else BOLD= DIM= RED= PLAIN=; fi

say()  { printf '%s\n' "$*" >&2; }
note() { printf '%s%s%s\n' "$DIM" "$*" "$PLAIN" >&2; }
die()  { printf '%s%s%s\n' "$RED" "$*" "$PLAIN" >&2; exit 1; }

# step WHAT LOG COMMAND...: runs COMMAND with its output in LOG, and shows WHAT with the seconds it took.
# On a terminal the seconds count up; elsewhere a line every 20 s shows that it still lives. A failing
# command ends the script with the last lines of its log.
step() {
    local what=$1 log=$2 start=$SECONDS pid rc=0 last=0
    shift 2
    mkdir -p "$(dirname "$log")"
    [[ -t 2 ]] || say "… $what"
    "$@" >"$log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        if [[ -t 2 ]]; then
            printf '\r… %s %s%d s%s ' "$what" "$DIM" $((SECONDS - start)) "$PLAIN" >&2
        elif ((SECONDS - start - last >= 20)); then
            last=$((SECONDS - start))
            note "  $what: $last s so far"
        fi
        sleep 0.2
    done
    wait "$pid" || rc=$?
    [[ -t 2 ]] && printf '\r\e[K' >&2
    if ((rc)); then
        tail -n 25 "$log" >&2
        die "failed: $what (exit $rc). The whole log: $log"
    fi
    say "✓ $what ($((SECONDS - start)) s)"
}

# recipe_hash FUNCTION... [-- TEXT...]: eight hex digits that change when a function's body or a text does.
recipe_hash() {
    local functions=()
    while (($#)) && [[ $1 != -- ]]; do functions+=("$1"); shift; done
    { declare -f "${functions[@]}"; printf '%s\n' "$@"; } | sha256sum | cut -c1-8
}

# install_once DIR WHAT FUNCTION: runs FUNCTION with an empty folder as its argument and renames that folder
# to DIR when all of it succeeded, so DIR is whole or absent. A lock makes a second, concurrent call wait.
install_once() {
    local dir=$1 what=$2 recipe=$3 fd tmp
    [[ -d $dir ]] && return
    mkdir -p "$(dirname "$dir")"
    exec {fd}>"$dir.lock"
    if ! flock -n "$fd"; then
        say "… waiting for another run that is making: $what"
        flock "$fd"
    fi
    if [[ ! -d $dir ]]; then
        tmp=$dir.partial
        rm -rf "$tmp"
        mkdir -p "$tmp"
        step "$what" "$CACHE/logs/$(basename "$dir").log" "$recipe" "$tmp"
        mv "$tmp" "$dir"
    fi
    exec {fd}>&-
}
