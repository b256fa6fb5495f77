#!/bin/bash
# What to run first on a GPU, in five calls of at most ten minutes each:
#
#   benchmarks/first_gpu_run.sh [--out FOLDER] [--try] [--list] [CALL...]
#
#   1  machine, doctor, GPU tests      4  ops and trainings against pure PyTorch, smoke test
#   2  half precision without tensor   5  512 px, memory and race checks, counters of the kernels
#      cores, forms of convolutions
#   3  trainings under one change
#      at a time, with profiles
#
# Without CALL all five run. Every step has a time limit, and a step that fails does not stop the
# others. The outcomes of all calls are collected in FOLDER/first_gpu_run.json, the output of each
# call in FOLDER/call-N.log; FOLDER is $OUT or build/first-gpu-run. It needs torch, numpy, scipy,
# pillow, typer and pytest, and no network. --try runs tiny sizes on the CPU, to test this script.
# --list shows the steps and their limits in seconds.
set -u
cd "$(dirname "$0")/.." || exit 1

PYTHON=${PYTHON:-python3}
OUT_FOLDER=${OUT:-} TRY='' LIST='' CALLS=()
while [ $# -gt 0 ]; do
  case $1 in
    --out) [ $# -gt 1 ] || { echo "error: --out needs a folder" >&2; exit 2; }; OUT_FOLDER=$2; shift ;;
    --try) TRY=1 ;;
    --list) LIST=1 ;;
    [1-5]) CALLS+=("$1") ;;
    *) echo "error: '${1:0:40}' is no call (1 to 5), --out, --try or --list" >&2; exit 2 ;;
  esac
  shift
done
[ ${#CALLS[@]} -gt 0 ] || CALLS=(1 2 3 4 5)

WORK=build/first-gpu-run${TRY:+-try}
OUT_FOLDER=${OUT_FOLDER:-$WORK}

export PYTHONPATH="$PWD/src:$PWD/benchmarks:$PWD/build/site${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 SG3FLOW_TRACKING=off
export SG3FLOW_KERNELS=${SG3FLOW_KERNELS:-$PWD/build/k}
RECORD=$WORK/first_gpu_run.json
FAILED=$WORK/failed

record() { "$PYTHON" benchmarks/gpu_record.py "$RECORD" "$@"; }

# step NAME LIMIT COMMAND...: run a command for at most LIMIT seconds and record its outcome.
step() {
  local name=$1 limit=$2 folder=$WORK/$1 start=$SECONDS code
  shift 2
  if [ "$LIST" ]; then echo "$CALL $name $limit"; return; fi
  rm -rf "$folder"; mkdir -p "$folder"
  echo "== $name, at most $limit s: $*"
  timeout -k 10 "$limit" "$@" > "$folder/log" 2>&1
  code=$?
  tail -n 60 "$folder/log"
  record step "$name" "$folder" --exit $code --seconds $((SECONDS - start)) --limit "$limit"
  [ $code -eq 0 ] || echo "$name" >> "$FAILED"
}

# tool PROGRAM NAME LIMIT COMMAND...: a step, if the machine has the program.
tool() {
  if [ "$LIST" ] || command -v "$1" > /dev/null; then
    step "${@:2}"
  else
    record skip "$2" "there is no $1 on PATH"
  fi
}

if [ "$TRY" ]; then
  DEVICE=(--device cpu --dtype float32 --cbase 128 --cmax 4 --repeats 1)
  SIZE_T=16 SIZE_L=16 BATCH=4 STEPS=1 MORE=(--times 1 --samples 1)
  SMOKE=(--collect-only)
else
  DEVICE=()
  SIZE_T=256 SIZE_L=512 BATCH=32 STEPS=16 MORE=(--repeats 3 --times 3)
  SMOKE=(-s)
fi
# Warnings of other versions of the libraries are no failures here.
TESTS=("$PYTHON" -m pytest -W default -p no:cacheprovider -q -m gpu)

forms() { # RESOLUTION BATCH
  step "convolutions-$1" 90 "$PYTHON" benchmarks/convolution_forms.py --resolution "$1" \
    --batch "$2" "${DEVICE[@]}" --json "$WORK/convolutions-$1/forms.json"
}

changes() { # CFG RESOLUTION LIMIT [OPTION...]
  step "changes-$1-$2" "$3" "$PYTHON" benchmarks/training_changes.py --cfg "$1" --resolution "$2" \
    --batch "$BATCH" --steps "$STEPS" "${DEVICE[@]}" --json "$WORK/changes-$1-$2/changes.json" \
    "${@:4}"
}

call_1() {
  [ "$LIST" ] || record facts
  step doctor 180 "$PYTHON" -m sg3flow doctor
  step tests 360 "${TESTS[@]}" tests/cuda "--junitxml=$WORK/tests/tests.xml"
}

call_2() {
  step tests-without-tensor-cores 240 env SG3FLOW_TENSOR_CORES=0 "${TESTS[@]}" tests/cuda \
    -k half_precision "--junitxml=$WORK/tests-without-tensor-cores/tests.xml"
  forms $SIZE_T $((BATCH / 2))
  [ $SIZE_L = $SIZE_T ] || forms $SIZE_L $((BATCH / 4))
}

call_3() {
  changes stylegan3-t $SIZE_T 270
  changes stylegan3-r $SIZE_T 270
}

call_4() {
  # Pure PyTorch may be very slow.
  step ops 280 "$PYTHON" benchmarks/gpu.py --resolutions $SIZE_T --batch "$BATCH" --steps "$STEPS" \
    "${DEVICE[@]}" "${MORE[@]}" --json "$WORK/ops/ops.json"
  step smoke 280 "${TESTS[@]}" tests/training/test_smoke_gpu.py "${SMOKE[@]}" \
    "--junitxml=$WORK/smoke/smoke.xml"
}

call_5() {
  if [ $SIZE_L != $SIZE_T ]; then
    changes stylegan3-t $SIZE_L 100 --brief
    changes stylegan3-r $SIZE_L 100 --brief
  fi
  local small=(tests/cuda/test_gpu_ops.py -k "half_precision and size0 or upfirdn2d or empty")
  local check
  for check in memcheck racecheck; do
    tool compute-sanitizer $check 120 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool $check --error-exitcode 9 "${TESTS[@]}" "${small[@]}"
  done
  tool ncu counters 120 ncu --clock-control none --target-processes all --launch-count 12 \
    --kernel-name "regex:(band|tile|bend|second|bias_act|upfirdn|small)_kernel" --csv --metrics \
    gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed,sm__throughput.avg.pct_of_peak_sustained_elapsed \
    "$PYTHON" benchmarks/training_changes.py --brief --steps 1 --resolution $SIZE_T \
    --batch "$BATCH" "${DEVICE[@]}"
}

mkdir -p "$OUT_FOLDER" "$WORK" || exit 1
: > "$FAILED"
for CALL in "${CALLS[@]}"; do
  if [ "$LIST" ]; then
    "call_$CALL"
    continue
  fi
  "call_$CALL" 2>&1 | tee "$WORK/call-$CALL.log"
  for file in "$RECORD" "$WORK/call-$CALL.log"; do
    [ "$OUT_FOLDER" -ef "$WORK" ] || cp "$file" "$OUT_FOLDER/"
  done
done
[ ! -s "$FAILED" ] || { echo "failed: $(paste -sd ' ' "$FAILED")" >&2; exit 1; }
