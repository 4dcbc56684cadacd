# ./dev deps: everything the build and the tests need, installed once, pinned and checked.
#
# Four kinds: Debian packages, two libraries built from pinned source (FAISS, librdkafka), Kafka's jars from
# Maven by docker/kafka/pom.xml, and a Python environment from tests/requirements.txt. The last three go to
# the cache folder under names that carry a hash of their recipe, so a changed recipe builds anew beside the
# old one. With nothing missing, it only looks, and says nothing.

FAISS_VERSION=1.12.0
FAISS_CRATE=faiss-sys-0.7.0
FAISS_SHA256=c4a8fa67f7070bb81f41dc71c98813b3e40a66bedab12d6c2ac2af50f0837a7e

# Newer than Debian's 2.0.2 for two reasons: DescribeTopics (2.3) answers with topic ids, which the store
# keeps beside its offsets, and 2.3 mended a spurious fatal error of the idempotent producer (#4438).
RDKAFKA_VERSION=2.12.1
RDKAFKA_CRATE=rdkafka-sys-4.10.0+2.12.1
RDKAFKA_SHA256=e234cf318915c1059d4921ef7f75616b5219b10b46e9f3a511a15eb4b56a3f77

KAFKA_VERSION=4.3.1

# Libraries, by package; tools by the command that is looked for, so that another source of one will do.
APT_LIBRARIES=(libc6-dev libavro-dev libjansson-dev liblmdb-dev libmicrohttpd-dev check libxxhash-dev
    libsodium-dev libroaring-dev libcurl4-openssl-dev libopenblas-dev libzstd-dev zlib1g-dev libssl-dev ca-certificates)
APT_TOOLS=(gcc:gcc g++:g++ cmake:cmake ninja:ninja-build pkg-config:pkg-config curl:curl tar:tar flock:util-linux
    setsid:util-linux mvn:maven)
JAVA_PACKAGE=openjdk-17-jre-headless
CARGO_PACKAGE=cargo-web     # recent; Debian 12's own cargo, 1.65, wants an index that is no longer served

# The interpreter of the environment's pinned wheels, where there is one; else whatever python3 is 3.11 or newer.
PYTHON=${PYTHON:-$([[ -x /usr/bin/python3 ]] && echo /usr/bin/python3 || command -v python3 || true)}

# ---- Debian packages ------------------------------------------------------------------------------------

version_at_least() { [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }

# The first cargo that runs and is recent enough. The first in PATH may be neither: rustup's proxy runs nothing for a
# user who has chosen no toolchain.
recent_cargo() {
    local cargo version
    while read -r cargo; do
        version=$("$cargo" --version 2>/dev/null | cut -d' ' -f2) || continue
        if version_at_least 1.85.0 "${version:-0}"; then echo "$cargo"; return; fi
    done < <(type -ap cargo; echo /usr/bin/cargo)
    return 1
}

java_major() { java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p'; }

apt_missing() {
    local package pair installed
    installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${APT_LIBRARIES[@]}" 2>/dev/null || true)
    for package in "${APT_LIBRARIES[@]}"; do
        grep -qx "installed $package" <<<"$installed" || echo "$package"
    done
    for pair in "${APT_TOOLS[@]}"; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done
    [[ -n $PYTHON ]] && "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || printf '%s\n' python3 python3-venv
    # Java and cargo are slow to ask: only when what they make is not there yet.
    if ! command -v java >/dev/null || { [[ ! -d $(kafka_dir) ]] && (($(java_major) < 17)); }; then
        echo "$JAVA_PACKAGE"
    fi
    if [[ ! -d $(faiss_dir) || ! -d $(rdkafka_dir) ]] && ! recent_cargo >/dev/null; then echo "$CARGO_PACKAGE"; fi
}

deps_apt() {
    local missing sudo=()
    mapfile -t missing < <(apt_missing | sort -u)
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || die "missing, and this is no Debian to install them on: ${missing[*]}"
    if ((EUID)); then
        command -v sudo >/dev/null || die "missing, and neither root nor sudo to install them: ${missing[*]}"
        sudo -v || die "missing: ${missing[*]}"
        sudo=(sudo)
    fi
    note "Debian packages to install: ${missing[*]}"
    step "apt-get update" "$CACHE/logs/apt-update.log" "${sudo[@]}" apt-get update
    step "apt-get install (${#missing[@]} packages)" "$CACHE/logs/apt-install.log" \
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

# ---- Sources in Rust packages -----------------------------------------------------------------------------

# fetch_crate NAME SHA256 INTO: unpacks one pinned package's archive below INTO. Its own cargo home, so that
# nothing of the user's is touched; a proxy or a mirror set in ~/.cargo/config.toml still counts when the
# cache lies in the home folder, as by default.
fetch_crate() {
    local name=$1 sha256=$2 into=$3 crate cargo
    export CARGO_HOME=$CACHE/cargo
    crate=$(ls "$CARGO_HOME"/registry/cache/*/"$name.crate" 2>/dev/null | head -n 1 || true)
    if [[ -z $crate ]]; then
        mkdir -p "$CACHE/sources"
        cp "$ROOT/scripts/sources/Cargo.toml" "$CACHE/sources/"
        : >"$CACHE/sources/none.rs"
        cargo=$(recent_cargo) || { echo "no cargo that works, 1.85 or newer"; return 1; }
        # Its own folder first in PATH: it asks the rustc beside it.
        (cd "$CACHE/sources" && PATH=$(dirname "$cargo"):$PATH "$cargo" fetch) || return 1
        crate=$(ls "$CARGO_HOME"/registry/cache/*/"$name.crate" | head -n 1)
    fi
    echo "$sha256  $crate" | sha256sum -c - || { rm -f "$crate"; return 1; }
    mkdir -p "$into"
    tar -xzf "$crate" -C "$into" --strip-components=1
}

# FAISS comes in several builds for one machine type; the newest that this CPU runs is several times as fast
# as the oldest (PQ encoding 404 against 44 thousand vectors a second).
faiss_opt_level() {
    local flags flag
    [[ -n ${ANTIPODE_FAISS_OPT_LEVEL:-} ]] && { echo "$ANTIPODE_FAISS_OPT_LEVEL"; return; }
    [[ $ARCH == x86_64 ]] || { echo generic; return; }
    flags=" $(grep -m 1 '^flags' /proc/cpuinfo) "
    has() { for flag in "$@"; do [[ $flags == *" $flag "* ]] || return 1; done; }
    if has avx512f avx512cd avx512vl avx512dq avx512bw avx2 fma f16c popcnt; then echo avx512
    elif has avx2 fma f16c popcnt; then echo avx2
    else echo generic; fi
}

build_faiss() {
    local out=$1 level suffix
    level=$(faiss_opt_level)
    [[ $level == generic ]] && suffix= || suffix=_$level
    fetch_crate "$FAISS_CRATE" "$FAISS_SHA256" "$out/src" || return
    cmake -S "$out/src/faiss" -B "$out/obj" -G Ninja -DCMAKE_BUILD_TYPE=Release \
        -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DBUILD_SHARED_LIBS=OFF -DBUILD_TESTING=OFF \
        -DFAISS_ENABLE_C_API=ON -DFAISS_ENABLE_GPU=OFF -DFAISS_ENABLE_PYTHON=OFF -DFAISS_ENABLE_EXTRAS=OFF \
        -DFAISS_ENABLE_MKL=OFF -DBLA_VENDOR=OpenBLAS -DFAISS_OPT_LEVEL="$level" || return
    nice ninja -C "$out/obj" "faiss_c$suffix" || return
    mkdir -p "$out/lib" "$out/include/faiss/c_api" || return
    cp "$out/obj/faiss/libfaiss$suffix.a" "$out/obj/c_api/libfaiss_c$suffix.a" "$out/lib/" || return
    (cd "$out/src/faiss" && find faiss -name '*.h' -exec cp --parents {} "$out/include/" \;) || return
    (cd "$out/src/faiss/c_api" && find . -name '*.h' -exec cp --parents {} "$out/include/faiss/c_api/" \;) || return
    rm -rf "$out/obj" "$out/src"
}

build_rdkafka() {
    local out=$1
    fetch_crate "$RDKAFKA_CRATE" "$RDKAFKA_SHA256" "$out/src" || return
    # A broker that is stopping answers metadata with no brokers at all; librdkafka then forgets every broker it has and
    # never asks again ("no usable brokers"), so a clean restart of a lone broker now and then muted a client for good.
    # An empty list teaches nothing: keep what is known. bench/campaign found it; the grep fails where the line is no longer there.
    sed -i 's/^        if (!has_learned_brokers) {$/        if (!has_learned_brokers || md->broker_cnt == 0) {/' \
        "$out/src/librdkafka/src/rdkafka_metadata.c" || return
    grep -q 'has_learned_brokers || md->broker_cnt == 0' "$out/src/librdkafka/src/rdkafka_metadata.c" || return
    # A batch of a few records is a few bytes smaller with zstd, and dearer: for whoever writes it, for the broker, which unpacks it to
    # look at it, and for every reader. One point a request at a thousand a second is a thousand such batches (docs/performance.md).
    sed -i 's/if (rd_kafka_msgset_writer_compress(msetw, &len) == -1)/if (len < 2048 || rd_kafka_msgset_writer_compress(msetw, \&len) == -1)/' \
        "$out/src/librdkafka/src/rdkafka_msgset_writer.c" || return
    grep -q 'len < 2048 || rd_kafka_msgset_writer_compress' "$out/src/librdkafka/src/rdkafka_msgset_writer.c" || return
    # Records that come one by one are fetched a few at a time: 2 ms between an answer and the next question to that broker. Without, a
    # thousand records a second are as many fetches of every reader. queued.min.messages and fetch.queue.backoff.ms would do it by
    # partition, and leave the next fetch with the idle ones alone, which waits fetch.wait.max.ms while records come to the others.
    sed -i 's/^        rkb->rkb_fetching = 0;$/&\n        rkb->rkb_ts_fetch_backoff = rd_clock() + 2000;/' "$out/src/librdkafka/src/rdkafka_fetcher.c" || return
    sed -i 's/^                    rkb->rkb_ts_fetch_backoff < min_backoff)$/                    rkb->rkb_ts_fetch_backoff > min_backoff)/' \
        "$out/src/librdkafka/src/rdkafka_broker.c" || return
    grep -q 'rkb_ts_fetch_backoff = rd_clock() + 2000' "$out/src/librdkafka/src/rdkafka_fetcher.c" || return
    grep -q 'rkb->rkb_ts_fetch_backoff > min_backoff)' "$out/src/librdkafka/src/rdkafka_broker.c" || return
    cmake -S "$out/src/librdkafka" -B "$out/obj" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$out" \
        -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DRDKAFKA_BUILD_STATIC=ON -DRDKAFKA_BUILD_EXAMPLES=OFF \
        -DRDKAFKA_BUILD_TESTS=OFF -DWITH_ZSTD=ON -DWITH_ZLIB=ON -DWITH_SSL=ON -DWITH_SASL=OFF -DWITH_CURL=OFF \
        -DENABLE_LZ4_EXT=OFF -DWITH_PLUGINS=OFF || return
    nice ninja -C "$out/obj" src/librdkafka.a || return
    mkdir -p "$out/lib" "$out/include/librdkafka" || return
    cp "$out/obj/src/librdkafka.a" "$out/lib/" || return
    cp "$out/src/librdkafka/src/rdkafka.h" "$out/src/librdkafka/src/rdkafka_mock.h" "$out/include/librdkafka/" || return
    rm -rf "$out/obj" "$out/src"
}

faiss_dir() {
    local level
    level=$(faiss_opt_level)
    echo "$CACHE/faiss-$FAISS_VERSION-$ARCH-$level-$(recipe_hash build_faiss fetch_crate -- "$FAISS_SHA256")"
}
rdkafka_dir() {
    echo "$CACHE/rdkafka-$RDKAFKA_VERSION-$ARCH-$(recipe_hash build_rdkafka fetch_crate -- "$RDKAFKA_SHA256")"
}

# ---- Kafka's jars -----------------------------------------------------------------------------------------

build_kafka() {
    local out=$1
    mvn -B -q -f "$ROOT/docker/kafka/pom.xml" -Dmaven.repo.local="$CACHE/maven" \
        dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$out/libs" || return
    (cd "$out/libs" && sha256sum --strict --quiet -c "$ROOT/docker/kafka/jars.sha256") || return
    # Nothing beside what the list names.
    diff <(cd "$out/libs" && ls | LC_ALL=C sort) <(awk '{print $2}' "$ROOT/docker/kafka/jars.sha256" | LC_ALL=C sort)
}

# kafka_jars: after a change of version, fetch the jars and write their list anew; look at what changed.
kafka_jars() {
    local out
    out=$(mktemp -d)
    mvn -B -q -f "$ROOT/docker/kafka/pom.xml" -Dmaven.repo.local="$CACHE/maven" \
        dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$out"
    (cd "$out" && ls | LC_ALL=C sort | xargs sha256sum) >"$ROOT/docker/kafka/jars.sha256"
    rm -rf "$out"
    git -C "$ROOT" --no-pager diff --stat -- docker/kafka/jars.sha256
}

kafka_dir() {
    echo "$CACHE/kafka-$KAFKA_VERSION-$(cat "$ROOT/docker/kafka/pom.xml" "$ROOT/docker/kafka/jars.sha256" | sha256sum | cut -c1-8)"
}

# ---- Python -----------------------------------------------------------------------------------------------

build_venv() {
    local out=$1
    "$PYTHON" -m venv "$out" || return
    "$out/bin/python" -m pip install --disable-pip-version-check --no-input --require-hashes \
        -r "$ROOT/tests/requirements.txt"
}
venv_dir() {
    echo "$CACHE/venv-$(recipe_hash build_venv -- "$PYTHON" "$(<"$ROOT/tests/requirements.txt")")"
}

# ---- All of it ----------------------------------------------------------------------------------------------

deps_libraries() {
    install_once "$(faiss_dir)" "FAISS $FAISS_VERSION from source ($(faiss_opt_level)), about 2 minutes on 2 cores" build_faiss
    install_once "$(rdkafka_dir)" "librdkafka $RDKAFKA_VERSION from source, about 1 minute on 2 cores" build_rdkafka
}

deps() {
    deps_apt
    install_once "$(kafka_dir)" "Kafka $KAFKA_VERSION (jars from Maven)" build_kafka
    install_once "$(venv_dir)" "Python tools of the tests" build_venv
    deps_libraries
}
