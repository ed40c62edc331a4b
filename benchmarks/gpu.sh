#!/usr/bin/env bash
# Everything that needs a GPU, on a machine that has little else: the GPU suite, then latency. In less than ten minutes.
#
#   benchmarks/gpu.sh OUT [WHEELS...]
#
# OUT gets at most 8 files: summary.txt says what each step came to, beside it are the steps' logs and gpu_latency.json. WHEELS
# are folders of wheels (or of a wheel cut into *.part-* files, which are joined) for what the machine's Python lacks:
# gpu-wheels.txt lists them. No network is used. Needs an NVIDIA driver, Python 3.10 or later, and PyTorch with CUDA to make
# the bundles and for the comparisons with it. A test that finds no GPU fails. It ends with 0 when nothing failed. Set before it:
#
#   PYTHON=python3                  which Python
#   DIFFPOSE_GPU_TIME=1             how many times as long every step may take; a Jetson wants 6
#   DIFFPOSE_GPU_ROUNDS=100         rounds of the latency benchmark
#   DIFFPOSE_GPU_BUNDLES=folder     bundles made elsewhere: python -m diffpose_edge.benchmarks.shipped_bundles folder
#   DIFFPOSE_ENGINES_REFUSED=known  that TensorRT refuses this GPU is known, and told, but no failure
set -uo pipefail
[ $# -ge 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
out=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2; shift
# Paths are told from where the caller stands.
wheels=()
for folder in "$@"; do
    wheels+=("$(cd "$folder" && pwd)") || exit 2
done
python=${PYTHON:-python3}
[ "$python" = "${python##*/}" ] || python=$(cd "$(dirname "$python")" && pwd)/${python##*/}
bundles=${DIFFPOSE_GPU_BUNDLES:-}
[ -z "$bundles" ] || bundles=$(mkdir -p "$bundles" && cd "$bundles" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
slower=${DIFFPOSE_GPU_TIME:-1}
# Each step has a limit; together they stay below 560 s. Latency, the last one, gets what the others left of this:
deadline=$((545 * slower))
rm -f "$out"/{summary.txt,doctor.log,cuda.log,sanitizer.log,onnxruntime.log,engines.log,latency.log,gpu_latency.json}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
failed=0
# Who starts this in the background has SIGINT ignored, and every child would ignore it with him.
heeding=(env --default-signal=INT)
"${heeding[@]}" true 2> /dev/null || heeding=(env)

say() { echo "$*" | tee -a "$out/summary.txt"; }

within() { # seconds, command...: it is interrupted at the limit, so that it can print and save what it has, and killed 10 s later
    local limit=$(($1 * slower)); shift
    [ "$limit" -lt $((deadline - SECONDS)) ] || limit=$((deadline - SECONDS))
    [ "$limit" -gt 0 ] || { echo "no time was left"; return 124; }
    timeout -s INT -k 10 "$limit" "${heeding[@]}" "$@"
}

step() { # name, seconds, command...: the output goes to the log of the name's first word
    local name=$1 limit=$2 began=$SECONDS log="$out/${1%% *}.log" code verdict; shift 2
    echo "== $name"
    within "$limit" "$@" >> "$log" 2>&1
    code=$?
    tail -n 15 "$log"
    case $code in
        0) verdict=passed ;;
        124 | 137) verdict="stopped, out of time" ;;
        *) verdict="failed with $code" ;;
    esac
    say "$name: $verdict after $((SECONDS - began)) s: $(tail -n 1 "$log")"
    return $code
}

for folder in ${wheels[@]+"${wheels[@]}"}; do
    for first in "$folder"/*.part-00; do
        [ -e "$first" ] && cat "${first%-00}"-* > "$site/$(basename "${first%.part-00}")"
    done
    cp "$folder"/*.whl "$site"/ 2> /dev/null
done
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if compgen -G "$site/*.whl" > /dev/null; then
    if ! within 90 "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site/packages" "$site"/*.whl
    then
        say "set-up: the wheels were not installed"
        exit 1
    fi
    PYTHONPATH="$site/packages:$PYTHONPATH"
fi
# ONNX Runtime looks for CUDA's libraries in packages beside itself; where it was carried, they lie beside PyTorch.
libraries=$("$python" -c 'import glob, sys; print(":".join(found for path in sys.path for found in glob.glob(path + "/nvidia/*/lib")))')
[ -z "$libraries" ] || export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export DIFFPOSE_REQUIRE_GPU=1
export DIFFPOSE_GPU_BUNDLES="${bundles:-$site/bundles}"
# What a test prints is in the log at once, whatever becomes of the process. A test that hangs shows where. The machine's own
# plugins of pytest may be for another pytest than the one that was carried.
export PYTHONUNBUFFERED=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
tests=("$python" -m pytest -v -s -rs --tb=short -p no:cacheprovider -o faulthandler_timeout=60 --continue-on-collection-errors -m gpu)

say "GPU: $(nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv,noheader 2> /dev/null || echo "nvidia-smi tells of none")"
say "set-up: $SECONDS s"
step doctor 20 "$python" -m diffpose_edge doctor || failed=1
step cuda 60 "${tests[@]}" tests/gpu/test_gpu_cuda.py tests/gpu/test_gpu_torch.py || failed=1
if command -v compute-sanitizer > /dev/null; then
    step sanitizer 40 compute-sanitizer --error-exitcode 9 "${tests[@]}" tests/gpu/test_gpu_cuda.py -k "what_goes_in or capture_runs" || failed=1
else
    say "sanitizer: not run: compute-sanitizer is not installed"
fi
step onnxruntime 100 "${tests[@]}" tests/gpu/test_gpu_onnxruntime.py || failed=1

# The least of engines first: where it is refused, no test of engines proves anything.
step "engines probe" 30 "$python" -m diffpose_edge.benchmarks.engine_probe
refused=$?
if [ $refused -eq 0 ]; then
    taken=$(sed -n 's/^\([a-z]*\): takes engines$/\1/p' "$out/engines.log")
    for flavour in $taken; do
        DIFFPOSE_FLAVOUR=$flavour step "engines $flavour" $((120 / $(wc -w <<< "$taken"))) "${tests[@]}" tests/gpu/test_gpu_engines.py || failed=1
    done
else
    say "$(grep '^engines: NOT TESTED' "$out/engines.log" || echo "engines: NOT TESTED: the probe gave no answer, see engines.log")"
    # 3: there is a GPU, and every TensorRT that is installed refuses it. Anything else is a fault of the set-up.
    [ $refused -eq 3 ] && [ "${DIFFPOSE_ENGINES_REFUSED:-}" = known ] || failed=1
fi

step latency 545 "$python" -m diffpose_edge.benchmarks.gpu_latency --pair frame --rounds "${DIFFPOSE_GPU_ROUNDS:-100}" \
    --bundles "$DIFFPOSE_GPU_BUNDLES" --out "$out/gpu_latency.json" || failed=1
[ $failed -eq 0 ] && say "everything passed in $SECONDS s" || say "something failed; $SECONDS s"
exit $failed
