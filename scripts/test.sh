# ./dev test [all|unit|asan|e2e|long] [words for the runner]

# Twice as many at a time as there are cores: every other one waits for a mock of Kafka.
unit_tests() { # PRESET [words]
    build "$1" -DANTIPODE_WERROR=ON
    ctest --test-dir "$ROOT/build/$1" --output-on-failure --parallel $((2 * JOBS)) "${@:2}"
}

python_tests() {
    build "${ANTIPODE_PRESET:-dev}"
    PYTHONPATH=$ROOT/tests "$(venv_dir)/bin/python" -m pytest "$ROOT/tests/e2e" -c "$ROOT/tests/pytest.ini" "$@"
}

# All of them: two modules at a time, since each mostly waits for brokers to start and records to travel. In order, because
# the first, the campaign, takes longest.
end_to_end() { python_tests -m 'not long' -n 2 --dist loadfile --no-loadscope-reorder "$@"; }

tests() {
    local what=${1:-all}
    (($#)) && shift
    deps
    case $what in
        unit) unit_tests dev "$@" ;;
        asan | tsan) unit_tests "$what" "$@" ;;
        e2e) if (($#)); then python_tests -m 'not long' "$@"; else end_to_end; fi ;;
        long) python_tests -m long "$@" ;;
        all) unit_tests dev; end_to_end "$@" ;; # CI runs asan as well: .ci/run
        *) die "usage: ./dev test [all|unit|asan|tsan|e2e|long] [words for ctest or pytest]" ;;
    esac
}
