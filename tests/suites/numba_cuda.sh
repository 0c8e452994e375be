#!/bin/sh
# numba-cuda's own tests on the CPU device: tests/suites/numba_cuda.sh [--remote] [MODULE ...]
#
# They come with numba-cuda's wheel, which is installed into build/suites/numba_cuda/venv
# with the rest of the `cuda` extra and what the tests alone need. fdrun is $VENV's. Logs
# are left beside the environment. Takes about 15 CPU minutes, each module at most 5.
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

case "${1:-}" in
--remote) logs=$place/remote ;;
*) logs=$place/direct ;;
esac

# Two of the tests write past the end of their arrays, which GPUs do not notice.
export FD_CPU_SLACK=1 NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS=0
exec nice "$python" tests/suites/numba_suite.py --bin "$venv/bin" --out "$logs" "$@"
