# ./dev build [preset]: configure once, build, and show only what went wrong.

JOBS=${JOBS:-$(nproc)}

build() {
    local preset=${1:-dev} extra=("${@:2}") dir=$ROOT/build/${1:-dev}
    if [[ ! -f $dir/build.ninja ]] || ((${#extra[@]})); then
        step "configure ($preset)" "$dir/configure.log" cmake --preset "$preset" "${extra[@]}"
    fi
    # Ninja is told to be quiet, so that what a failure shows is the failure.
    step "build ($preset)" "$dir/build.log" cmake --build "$dir" --parallel "$JOBS" -- --quiet
}
