#!/usr/bin/env bash
# Acceptance on a machine with a GPU: builds fdcore, asks the real driver what the design
# assumes of it, runs the programs of tests/e2e on the driver and through a server, and
# measures what remoting costs real programs. No network is needed.
#
#   bench/gpu_acceptance.sh [--wheels DIR] [--out DIR] [--seconds N] [--driver PATH]
#                           [--workloads NAME,NAME] [STAGE ...]
#
# Stages: assumptions, tests, golden, calls, models; all of them unless some are named.
# --wheels has the Python packages that this machine lacks (pycapnp, say); PyTorch and
# torchvision are the machine's own. What comes out is in --out (build/gpu/out): the
# stages' logs, results.json, and table.md, which is printed last.
set -euo pipefail
cd "$(dirname "$0")/.."

wheels='' out=build/gpu/out seconds=540 more=()
while [ $# -gt 0 ]; do
    case $1 in
    --wheels) wheels=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    --driver | --workloads) more+=("$1" "$2"); shift 2 ;;
    -*) sed -n 6,7p "$0" >&2; exit 2 ;;
    *) break ;;
    esac
done
mkdir -p "$out"
started=$SECONDS

# A virtual environment of our own that also sees this Python's packages (PyTorch).
python=${PYTHON:-python3}
venv=$PWD/build/gpu/venv
if [ ! -x "$venv/bin/python" ]; then
    outer=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -m venv --without-pip "$venv"
    inner=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "import site; site.addsitedir('$outer')" >"$inner/zz_outer.pth"
fi
pip=("$venv/bin/python" -m pip install --quiet --no-index --no-deps
     --disable-pip-version-check --root-user-action=ignore)
if [ -n "$wheels" ]; then
    for wheel in "$wheels"/*.whl; do
        case ${wheel##*/} in fdcore-*) ;; *) "${pip[@]}" "$wheel" ;; esac
    done
fi
if ! FD_BUILD_JOBS=$(nproc) "${pip[@]}" --no-build-isolation -e . >"$out/build.log" 2>&1; then
    tail -n 30 "$out/build.log"
    # A machine without Python's headers: fdcore itself may have come as a wheel.
    "${pip[@]}" "$wheels"/fdcore-*.whl
fi
echo "built in $((SECONDS - started)) s"
export PYTHONUNBUFFERED=1
exec "$venv/bin/python" -m bench.gpu.acceptance --out "$out" \
    --seconds $((seconds - SECONDS + started)) "${more[@]}" "$@"
