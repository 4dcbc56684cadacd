# What ./dev bench --only peers measures Antipode beside: installed when it is asked for, never by ./dev deps alone.

WEAVIATE_VERSION=v1.34.8    # as bench/peers/weaviate/go.mod has it

# hnswlib has to be compiled, with Python's headers; without them the environment is made all the same, and hnswlib.log
# says why it is not in it.
build_peers() {
    local out=$1
    "$PYTHON" -m venv "$out" || return
    "$out/bin/python" -m pip install --disable-pip-version-check --no-input --require-hashes --no-deps --only-binary :all: \
        -r "$ROOT/bench/peers/requirements.txt" || return
    "$out/bin/python" -m pip install --disable-pip-version-check --no-input --require-hashes --no-deps --no-build-isolation \
        -r "$ROOT/bench/peers/hnswlib.txt" >"$out/hnswlib.log" 2>&1 || tail -n 25 "$out/hnswlib.log"
}
peers_dir() {
    echo "$CACHE/peers-$(recipe_hash build_peers -- "$PYTHON" "$(cat "$ROOT"/bench/peers/*.txt)")"
}

# The server and the client that measures it, both from one go.mod; go.sum has the hash of every module.
build_weaviate() {
    local out=$1
    mkdir -p "$out/bin"
    (cd "$ROOT/bench/peers/weaviate" && GOFLAGS=-mod=readonly GOTOOLCHAIN=local GOWORK=off \
        nice go build -o "$out/bin/" . github.com/weaviate/weaviate/cmd/weaviate-server)
}
weaviate_dir() {
    echo "$CACHE/weaviate-$WEAVIATE_VERSION-$ARCH-$(recipe_hash build_weaviate -- "$(cat "$ROOT"/bench/peers/weaviate/*.go "$ROOT"/bench/peers/weaviate/go.*)")"
}

deps_peers() { install_once "$(peers_dir)" "Python environment with FAISS, hnswlib, usearch and pgvector" build_peers; }
deps_weaviate() {
    command -v go >/dev/null || die "Weaviate is built from source, and there is no go (1.24 or newer)"
    install_once "$(weaviate_dir)" "Weaviate $WEAVIATE_VERSION from source" build_weaviate
}
