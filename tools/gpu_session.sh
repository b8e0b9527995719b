#!/usr/bin/env bash
# Everything that only a GPU can show, in one session of at most 25 minutes on one data-centre GPU, without a network:
#
#     tools/gpu_session.sh [scale=full|small] [data=FOLDER] [out=FOLDER] [wheels=FOLDER] [minutes=25]
#
#   1. an environment: of the wheels, if a folder is named, else the Python of PYTHON (.venv/bin/python)
#   2. what stands here: the GPU, versions, the list of tests marked gpu
#   3. the tests marked gpu
#   4. python scripts/benchmark.py gpu: compiled views, the step beside a bare loop, bf16, share of the peak
#   5. SimCLR on CIFAR-10 with ResNet-18, as many epochs as the time allows, k-NN and linear probe; then its record
#
# Each part has its own limit of time and its own log in the folder, so that one that fails costs the others nothing.
# scale=small rehearses all of it on the CPU in two minutes; its numbers mean nothing. FOLDER of data holds CIFAR-10
# (cifar-10-batches-py). Wheels are made beforehand, on a machine of the same kind that has a network:
#
#     python3.12 -m pip download -d wheels pip hatchling editables ".[dev]" -c constraints.txt
set -u
cd "$(dirname "$0")/.."
scale=full data=data out=outputs/gpu_session wheels= minutes=25
for argument in "$@"; do
  case $argument in
    scale=full | scale=small | data=* | out=* | wheels=* | minutes=*) declare "$argument" ;;
    *) echo "error: unknown argument $argument; known are scale=full|small, data=, out=, wheels=, minutes=" >&2; exit 2 ;;
  esac
done
started=$(date +%s)
mkdir -p "$out"
left() { echo $((minutes * 60 - $(date +%s) + started)); }

python=${PYTHON:-.venv/bin/python}
if [ -n "$wheels" ]; then
  python3.12 -m venv --without-pip "$out/venv" && python=$out/venv/bin/python &&
    pip=$(ls "$wheels"/pip-*.whl 2>/dev/null | tail -1)
  if [ -z "$pip" ]; then echo "error: there is no pip-*.whl in $wheels: add it with pip download -d $wheels pip" >&2; exit 2; fi
  PYTHONPATH=$pip "$python" -m pip install --quiet --no-index --find-links "$wheels" ".[dev]" || exit 1
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
failed=0
# part NAME SECONDS COMMAND...: runs it with a limit, keeps what it says, and goes on whatever comes of it.
part() {
  local name=$1 limit=$2 began=$(date +%s) code=0
  shift 2
  [ "$limit" -gt "$(left)" ] && limit=$(left)
  if [ "$limit" -le 10 ]; then echo "$name: no time left"; failed=1; return; fi
  echo "$name: $*" | tee "$out/$name.log"
  timeout --kill-after=30 "$limit" "$@" >>"$out/$name.log" 2>&1 || code=$?
  [ $code -ne 0 ] && failed=1
  echo "$name: exit code $code after $(($(date +%s) - began)) s, $(left) s left"
}

probes='linear={_target_:ssl_framework.evaluation.probes.linear.LinearProbe,weight_decay:0.0001,max_iter:100}'
if [ "$scale" = small ]; then
  quick=(--quick)
  setting=(experiment=simclr/cifar10_200 data=shapes data.image_size=32 backbone=tiny trainer=cpu trainer.compile=false
    data.source.num_train=256 data.source.num_test=64 data.batch_size=64 "evaluation.probes.knn.k=[20]")
  epochs=2 tests=(tests/views/test_views.py)
else
  quick=() epochs=0 tests=(tests)
  setting=(experiment=simclr/cifar10_200 "data.root=$data")
fi

part about 60 "$python" -c 'import sys, torch; from ssl_framework.runs.provenance import versions; print(sys.version, versions(), torch.version.cuda, [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])'
part tests 360 "$python" -m pytest -q -m gpu -p no:cacheprovider "${tests[@]}"
part listed 60 "$python" -m pytest -q -m gpu -p no:cacheprovider --collect-only "${tests[@]}"
part benchmark 360 "$python" scripts/benchmark.py gpu "${quick[@]}" --json "$out/benchmark.json"

# As many epochs of 50,000 images as fit into what is left, less two minutes for compiling and four for the evaluation.
if [ "$epochs" = 0 ]; then
  epochs=$("$python" - "$out/benchmark.json" $(($(left) - 360)) <<'PYTHON'
import json, sys
try:
    speed = json.load(open(sys.argv[1]))["gpu"]["resnet18/images_per_second"]["median"]
except (OSError, KeyError, ValueError):
    speed = 5000.0  # a guess that is low for a data-centre GPU
print(max(1, min(200, int(0.9 * speed * int(sys.argv[2]) / 50_000))))
PYTHON
  )
fi
part simclr $(($(left) - 20)) "$python" train.py "${setting[@]}" "evaluation.probes.$probes" "trainer.max_epochs=$epochs" "hydra.run.dir=$out/simclr"
for file in result.json metrics.csv; do [ -e "$out/simclr/$file" ] && cp "$out/simclr/$file" "$out/simclr_$file"; done
echo "$(ls "$out" | tr '\n' ' ')"
echo "all parts: $(($(date +%s) - started)) s; $([ $failed = 0 ] && echo "all well" || echo "a part failed: see the logs in $out")"
exit $failed
