#!/usr/bin/env bash
# Searches on CIFAR-10 and fine-tunings at full length, for a machine with a GPU. Not run yet on one: no number in
# docs/ comes from here. The goal is the search of resnet18 in less than five minutes on one H200.
#   DATA and RUNS as in run.sh; KERAS_BACKEND=jax where TensorFlow is not installed (then without `files`).
#   bash docs/results/full.sh [steps|jit|searches|tuning|files ...]
set -euo pipefail
export TFMPQ_DATA_DIR=$DATA
RUNS=${RUNS:-runs}
# GMPQ's lengths: 25 epochs of searching, 100 of fine-tuning.
read -ra MODELS <<< "${MODELS:-resnet18 mobilenet_v2}"
FLOAT=${FLOAT:-25} SEARCH=${SEARCH:-25} TUNE=${TUNE:-100}
COMMON=(--batch-size 256 --seed 0 ${STEPS:+--steps-per-epoch "$STEPS"})
HERE=$(dirname "$0")

part_steps() { # images per second of float, plain and sharpness-aware steps; whether a step waits for data
    local model
    for model in "${MODELS[@]}"; do
        python "$HERE/../../benchmarks/step_time.py" --model $model --batch-size 256 > "$RUNS/$model.step_time.txt"
        for method in sgd asga; do
            python "$HERE/../../benchmarks/input_pipeline.py" --model $model --batch-size 256 --method $method \
                > "$RUNS/$model-$method.input_pipeline.json"
        done
    done
}
part_jit() { # the same hundred steps with and without XLA, and in bfloat16: search.result.json has the seconds
    local model
    for model in "${MODELS[@]}"; do
        for jit in on off; do
            tfmpq search --model $model --proxy cifar10 --weights none --float-epochs 0 --epochs 1 --steps-per-epoch 100 \
                --batch-size 256 --jit $jit --out "$RUNS/jit-$model-$jit" --json > "$RUNS/jit-$model-$jit.search.json"
        done
        tfmpq search --model $model --proxy cifar10 --weights none --float-epochs 0 --epochs 1 --steps-per-epoch 100 \
            --batch-size 256 --precision bfloat16 --out "$RUNS/bfloat16-$model" --json > "$RUNS/bfloat16-$model.search.json"
    done
}
part_searches() { # search.result.json has the seconds, search.choices.csv when the policy was settled
    local model method
    for model in "${MODELS[@]}"; do
        for method in asga sgd; do
            tfmpq search --model $model --proxy cifar10 --float-epochs "$FLOAT" --epochs "$SEARCH" "${COMMON[@]}" \
                --budget size=0.35x --method $method --out "$RUNS/full-$model-$method" --json \
                > "$RUNS/full-$model-$method.search.json"
        done
    done
}
part_tuning() {
    local model method
    for model in "${MODELS[@]}"; do
        for method in asga sgd; do
            tfmpq finetune "$RUNS/full-$model-$method" --target cifar10 --epochs "$TUNE" "${COMMON[@]}" \
                --out "$RUNS/full-$model-$method" --json > "$RUNS/full-$model-$method.finetune.json"
        done
    done
}
part_files() {
    local run
    for run in "$RUNS"/full-*/; do
        tfmpq export "$run" --tflite --out "${run%/}.tflite" --json > "${run%/}.export.json"
        tfmpq evaluate "${run%/}.tflite" --data cifar10 --json > "${run%/}.evaluate-cifar10.json"
    done
}

mkdir -p "$RUNS"
for part in "${@:-steps jit searches tuning files}"; do for name in $part; do "part_$name"; done; done
