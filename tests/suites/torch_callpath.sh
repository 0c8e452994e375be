#!/bin/sh
# PyTorch's calls where there is no GPU: tests/suites/torch_callpath.sh [PART ...]
#
# Takes PyTorch's CUDA build (several GB, from the registry) into TORCH_VENV, which is
# made where it is missing, and runs torch_callpath.py directly on the CPU device and
# through a server, over shm and tcp, with kernels skipped (docs/cpu-device.md): the three
# must say the same, and give the same work to each stream (tests/submissions.py; parameters
# have gaps that hold anything, and what no kernel wrote is anything). Each runs twice, the second time with expandable segments. What they
# write on standard error is shown where it is ours. fdrun is $VENV's.
set -eu

cd "$(dirname "$0")/../.."
venv=${VENV:-.venv}
place=build/suites/torch_callpath
torch=${TORCH_VENV:-$place/venv}
python=$torch/bin/python
port=${PORT:-56917}

if ! [ -x "$venv/bin/fdrun" ]; then
    echo "no $venv/bin/fdrun: run make build first" >&2
    exit 2
fi
mkdir -p "$place"
if ! "$python" -c 'import torch, numpy' 2>/dev/null; then
    "$venv/bin/python" -m venv "$torch"
    "$python" -m pip --quiet --disable-pip-version-check install \
        "torch==${TORCH_VERSION:-2.14.1}" numpy
fi

rm -f "$place"/*.log.*
export FD_CPU_KERNELS=skip FD_CPU_CC="${FD_CPU_CC:-9.0}" FD_CPU_MEMORY_MB=4096
state=$(mktemp -d)
FD_CPU_LOG="$PWD/$place/server.log" "$venv/bin/fdserver" --listen "127.0.0.1:$port" --cpu-devices 1 --state "$state" \
    >"$place/server.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null; rm -rf "$state"' EXIT
until grep -q "is ready" "$place/server.log"; do
    kill -0 $server || { cat "$place/server.log" >&2; exit 2; }
    sleep 0.1
done

# Lines of ours on standard error, but the one that kernels are skipped.
ours() { grep -E 'fdcore( cpu)?\[[0-9]+\]|^fdrun:' "$1" | grep -v 'FD_CPU_KERNELS=skip' || true; }

# one NAME COMMAND...: what it says is in $place/NAME.out
one() {
    name=$1
    shift
    if timeout 900 "$@" "$python" tests/suites/torch_callpath.py $parts \
        >"$place/$name.out" 2>"$place/$name.err" && [ -z "$(ours "$place/$name.err")" ] &&
        grep -q '^PASS$' "$place/$name.out"; then
        echo "$name: pass"
    else
        echo "$name: FAIL (status and lines below; all of it in $place/$name.*)"
        ours "$place/$name.err"
        for file in "$place/$name.out" "$place/$name.err"; do tail -n 5 "$file"; done
        failed=1
    fi
}

failed=0
parts="$*"
for segments in False True; do
    export PYTORCH_CUDA_ALLOC_CONF="expandable_segments:$segments"
    kind=$([ $segments = True ] && echo expandable || echo plain)
    FD_CPU_LOG="$PWD/$place/$kind-direct.log" one "$kind-direct" "$venv/bin/fdrun" --direct --
    for road in shm tcp; do
        export FD_TRANSPORT=$road
        rm -f "$place"/server.log.*
        one "$kind-$road" "$venv/bin/fdrun" -n 1 -l "127.0.0.1:$port" --
        sleep 3 # the lease is free again once its worker has gone
        if ! cmp -s "$place/$kind-direct.out" "$place/$kind-$road.out"; then
            echo "$kind-$road: differs from the direct run"
            diff "$place/$kind-direct.out" "$place/$kind-$road.out" || true
            failed=1
        fi
        "$venv/bin/python" -m tests.submissions "$place/$kind-direct.log" \
            "$place/server.log" --loose --no-results --no-parameters || failed=1
    done
done
exit $failed
