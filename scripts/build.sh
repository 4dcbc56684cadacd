# ./dev build [preset]: configure once, build, and show only what went wrong.

JOBS=${JOBS:-$(nproc)}

build() {
    local preset=${1:-dev} extra=("${@:2}") dir=$ROOT/build/${1:-dev}
    if [[ ! -f $dir/build.ninja ]] || ((${#extra[@]})); then
        step "configure ($preset)" "$dir/configure.log" cmake --preset "$preset" "${extra[@]}"
    fi
    if [[ -t 2 ]]; then
        cmake --build "$dir" --parallel "$JOBS" >&2
    else
        step "build ($preset)" "$dir/build.log" cmake --build "$dir" --parallel "$JOBS"
    fi
}
