#!/bin/sh
# numba-cuda's own tests on the CPU device: tests/suites/numba_cuda.sh [WAY] [MODULE ...]
#
# WAY is --direct (when left out), --remote (a server and shared memory), --tcp (a server and
# a connection), or --all: the three one after another, each with its count of what passed,
# failed and was skipped. The exit status is 1 where a test fails that numba_cuda.known does
# not name, or is skipped and numba_cuda.skips does not name it, or (after a direct run) did
# not pass through a server and did directly.
#
# They come with numba-cuda's wheel, which is installed into build/suites/numba_cuda/venv
# with the rest of the `cuda` extra and what the tests alone need. fdrun is $VENV's. Logs
# are left beside the environment. Takes about 15 CPU minutes a way, each module at most 5.
#
# There is no such script for cuda-bindings and cuda-core: their wheels (13.5.0, 1.2.2) hold
# no tests, and they have no source archives on the index.
set -eu

cd "$(dirname "$0")/../.."
venv=${VENV:-.venv}
place=build/suites/numba_cuda
python=$place/venv/bin/python

if ! [ -x "$venv/bin/fdrun" ]; then
    echo "no $venv/bin/fdrun: run make build first" >&2
    exit 2
fi
if ! [ "$place/venv/.done" -nt pyproject.toml ]; then
    "$venv/bin/python" -m venv "$place/venv"
    "$python" -c '
try:
    import tomllib
except ImportError:
    from pip._vendor import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"]["cuda"], sep="\n")
' >"$place/requirements.txt"
    "$python" -m pip --quiet --disable-pip-version-check install \
        -r "$place/requirements.txt" pytest filecheck ml_dtypes cffi psutil
    touch "$place/venv/.done"
fi

way=${1:---direct}
case "$way" in
--direct | --remote | --tcp | --all) [ $# -eq 0 ] || shift ;;
*) way=--direct ;;
esac

# Two of the tests write past the end of their arrays, which GPUs do not notice.
export FD_CPU_SLACK=1 NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS=0
suite() { nice "$python" tests/suites/numba_suite.py --bin "$venv/bin" "$@"; }
direct() { suite --out "$place/direct" "$@"; }
remote() { suite --out "$place/remote" --remote shm --direct "$place/direct" "$@"; }
tcp() { suite --out "$place/tcp" --remote tcp --direct "$place/direct" "$@"; }

case "$way" in
--direct) direct "$@" ;;
--remote) remote "$@" ;;
--tcp) tcp "$@" ;;
--all)
    failed=0
    for one in direct remote tcp; do
        echo "== $one"
        $one "$@" || failed=1
    done
    exit $failed
    ;;
esac
