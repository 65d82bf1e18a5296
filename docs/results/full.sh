#!/usr/bin/env bash
# Searches on CIFAR-10 and fine-tunings at full length, for a machine with a GPU. Not run yet on one: no number in
# docs/ comes from here. The goal is the search of resnet18 in less than five minutes on one H200.
#   DATA and RUNS as in run.sh; KERAS_BACKEND=jax where TensorFlow is not installed (then without `files`).
#   bash docs/results/full.sh [steps|jit|searches|tuning|files|saq|vit ...]
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
sharp() { # name, then the arguments of tfmpq finetune: qat as long, twice as long, SAQ, and SAQ every 5th step
    local name=$1 epochs=$2
    shift 2
    local arm
    for arm in A B C D; do
        local length=$epochs how=()
        case $arm in
            B) length=$((2 * epochs)) ;;
            C) how=(--method saq --rho "${RHO:-0.005}") ;;
            D) how=(--method saq --rho "${RHO:-0.005}" --second-gradient-every 5) ;;
        esac
        tfmpq finetune "$@" --epochs $length "${how[@]}" --out "$RUNS/$name-$arm" --json > "$RUNS/$name-$arm.finetune.json"
    done
}
part_saq() { # W4A4, W3A3 and W2A2 from float weights, five seeds; R20 names the weights of resnet20
    local bits seed
    for bits in 4 3 2; do
        for seed in 0 1 2 3 4; do
            sharp saq-resnet20-w$bits-$seed "$TUNE" uniform:$bits/$bits --model resnet20 --target cifar10 \
                --weights "${R20:-$DATA/cifar10_resnet20_weights.npz}" --batch-size 128 --seed $seed
        done
    done
}
part_vit() { # VIT is a .keras file of a vision transformer with weights that were trained on ImageNet
    local seed
    for seed in 0 1 2 3 4; do
        sharp saq-vit-w4-$seed "${VIT_EPOCHS:-20}" uniform:4/8 --model "$VIT" --target imagenet2012 \
            --optimizer adamw --batch-size 256 --seed $seed
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
