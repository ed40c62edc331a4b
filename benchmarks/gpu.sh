#!/usr/bin/env bash
# Everything that needs a GPU, on a machine that has little else: the GPU suite, then latency. At most ten minutes.
#
#   benchmarks/gpu.sh OUT [WHEELS...]
#
# OUT is the folder for the results, WHEELS are folders of wheels (or a wheel cut into *.part-* files, which are joined) for
# what the machine's Python lacks. No network is used. Needs an NVIDIA driver, Python 3.10 or later, and PyTorch with CUDA
# for the comparisons with it. DIFFPOSE_REQUIRE_GPU=1 is set: a test that finds no GPU fails.
set -uo pipefail
[ $# -ge 1 ] || { sed -n '2,8p' "$0" | cut -c3-; exit 2; }
out=$(mkdir -p "$1" && cd "$1" && pwd); shift
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT

for folder in "$@"; do
    for first in "$folder"/*.part-00; do
        [ -e "$first" ] && cat "${first%-00}"-* > "$site/$(basename "${first%.part-00}")"
    done
    cp "$folder"/*.whl "$site"/ 2>/dev/null
done
if compgen -G "$site/*.whl" > /dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site/packages" "$site"/*.whl || exit 1
    export PYTHONPATH="$site/packages:$PWD${PYTHONPATH:+:$PYTHONPATH}"
else
    export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
fi
export DIFFPOSE_REQUIRE_GPU=1

failed=0
step() { # name, seconds, command...
    local name=$1 limit=$2; shift 2
    echo "== $name"
    timeout "$limit" "$@" > "$out/$name.log" 2>&1
    local code=$?
    tail -n 15 "$out/$name.log"
    [ $code -eq 0 ] || { echo "== $name: failed with $code"; failed=1; }
}

step doctor 60 "$python" -m diffpose_edge doctor
step tests 330 "$python" -m pytest -q -rs -m gpu tests/gpu
if command -v compute-sanitizer > /dev/null; then
    step sanitizer 90 compute-sanitizer --error-exitcode 9 "$python" -m pytest -q -m gpu tests/gpu/test_gpu_cuda.py -k "what_goes_in or capture_runs"
else
    echo "== sanitizer: compute-sanitizer is not installed; not run" | tee "$out/sanitizer.log"
fi
step latency 180 "$python" -m diffpose_edge.benchmarks.gpu_latency --rounds 100 --pair frame --out "$out/gpu_latency.json"
exit $failed
