# ./dev test [all|unit|asan|e2e|long] [words for the runner]

unit_tests() { # PRESET [words]
    build "$1" -DANTIPODE_WERROR=ON
    ctest --test-dir "$ROOT/build/$1" --output-on-failure --parallel "$JOBS" "${@:2}"
}

python_tests() {
    build "${ANTIPODE_PRESET:-dev}"
    PYTHONPATH=$ROOT/tests "$(venv_dir)/bin/python" -m pytest "$ROOT/tests/e2e" -c "$ROOT/tests/pytest.ini" "$@"
}

tests() {
    local what=${1:-all}
    (($#)) && shift
    deps
    case $what in
        unit) unit_tests dev "$@" ;;
        asan | tsan) unit_tests "$what" "$@" ;;
        e2e) python_tests -m 'not long' "$@" ;;
        long) python_tests -m long "$@" ;;
        all) unit_tests dev; python_tests -m 'not long' "$@" ;; # CI runs asan as well: .ci/run
        *) die "usage: ./dev test [all|unit|asan|tsan|e2e|long] [words for ctest or pytest]" ;;
    esac
}
