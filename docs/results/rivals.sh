#!/usr/bin/env bash
# Search methods, options of ASGA, and policies carried to other data: every number in rivals.md.
#   DATA and RUNS as in run.sh.      bash docs/results/rivals.sh [methods|options|digits|imagenette ...]
# then python benchmarks/rivals.py "$RUNS" docs/results/rivals
set -euo pipefail
export TFMPQ_DATA_DIR=$DATA
RUNS=${RUNS:-runs}
R8=$DATA/cifar10_resnet8_mlperftiny.h5 R20=$DATA/cifar10_resnet20_weights.npz
MBV2=$DATA/imagenet_mobilenetv2_weights.npz
TUNING=(--epochs 4 --steps-per-epoch 64 --batch-size 64)
SHORT=(--epochs 16 --steps-per-epoch 16 --batch-size 64)
BYTES=(--budget size=0.35x)
BITS=(--weight-bits 2,3,4,5,6,8 --budget weight-bits=3.0)

compare() { # name seed option ...: search resnet20; what its policy is worth, reconstructed and tuned
    local run="$RUNS/$1-$2" seed=$2
    shift 2
    [ -s "$run/search.result.json" ] || tfmpq search --model resnet20 --weights "$R20" --proxy cifar10 \
        "${SHORT[@]}" --seed "$seed" --out "$run" --json "$@" > "$run.search.json"
    local policy; policy=$RUNS/policies/$(sed -n 's/^  .*{weight_bits: \([0-9]*\)}/\1/p' "$run/policy.yaml" | tr -d '\n')
    [ -s "$policy/finetune.result.json" ] || worth "$policy" "$run/policy.yaml"
    cp "$policy.evaluate-cifar10.json" "$run.evaluate-cifar10.json"
    cp "$policy/finetune.result.json" "$run.tuned.json"
}
worth() { # name policy: equal policies are measured once
    mkdir -p "$RUNS/policies"
    tfmpq export resnet20 --tflite --weights "$R20" --calibrate cifar10 --policy "$2" --out "$1.tflite" --json \
        > "$1.export.json"
    tfmpq evaluate "$1.tflite" --data cifar10 --json > "$1.evaluate-cifar10.json"
    tfmpq finetune "$2" --model resnet20 --weights "$R20" --target cifar10 "${TUNING[@]}" --seed 0 --out "$1" --json \
        > "$1.finetune.json"
}
part_methods() {
    local seed method
    for seed in 0 1 2; do
        for method in asga sagm sam gsam sgd fracbits sensitivity random; do
            compare $method $seed --method $method "${BYTES[@]}"
            compare bits-$method $seed --method $method "${BITS[@]}"
        done
    done
    compare uniform 0 --method uniform "${BYTES[@]}"
    compare bits-uniform 0 --method uniform "${BITS[@]}"
}
part_options() {
    local seed radius
    for seed in 0 1 2; do
        for radius in 0.1 0.2; do
            compare bits-fixed$radius $seed --method asga --radius fixed --rho-max $radius "${BITS[@]}"
        done
        compare bits-alpha0 $seed --method asga --alpha 0 "${BITS[@]}"
        compare bits-latent $seed --method asga --perturb latent "${BITS[@]}"
    done
}
part_digits() { # policies from digits, from CIFAR-10 and at random, for one float network
    local float="$RUNS/digits-float" seed name epochs
    local options=(--model resnet8 --budget size=0.29x)
    tfmpq search --model resnet8 --proxy digits --float-epochs 30 --method uniform --epochs 1 --seed 0 --out "$float"
    local trained=(--weights "$float/search.float.keras")
    for seed in 0 1; do
        tfmpq search "${options[@]}" --proxy digits "${trained[@]}" --epochs 8 --batch-size 64 --seed $seed \
            --out "$RUNS/digits-there-$seed"
        tfmpq search "${options[@]}" --proxy cifar10 --weights "$R8" "${SHORT[@]}" --seed $seed \
            --out "$RUNS/digits-cifar10-$seed"
        tfmpq search "${options[@]}" --proxy digits "${trained[@]}" --method random --seed $seed \
            --out "$RUNS/digits-random-$seed"
        for name in there cifar10 random; do
            for epochs in 0 5; do
                tfmpq finetune "$RUNS/digits-$name-$seed/policy.yaml" --model resnet8 --target digits --seed 0 \
                    "${trained[@]}" --epochs $epochs --json --out "$RUNS/digits-$name-$seed-ft$epochs" \
                    > "$RUNS/digits-$name-$seed-ft$epochs.json"
            done
        done
    done
}
carried() { # name policy: the top-1 of mobilenet_v2 with this policy, calibrated on ImageNet samples
    local samples="tfrecord:$DATA/imagenet_samples.tfrecord"
    tfmpq export mobilenet_v2 --tflite --weights "$MBV2" --calibrate "$samples" --policy "$2" \
        --out "$RUNS/$1.tflite" --json > "$RUNS/$1.export.json"
    tfmpq evaluate "$RUNS/$1.tflite" --data imagenette --json > "$RUNS/$1.evaluate-imagenette.json"
    tfmpq evaluate "$RUNS/$1.tflite" --data "$samples" --json > "$RUNS/$1.evaluate-unseen.json"
}
imitating() { # name option ...: a policy for 224x224 and 1000 classes, found by what the float network says
    local name=$1
    shift
    tfmpq search --model mobilenet_v2 --weights "$MBV2" --budget size=0.5x --target-input 224 --target-classes 1000 \
        --imitate --out "$RUNS/$name" "$@"
    carried "$name" "$RUNS/$name/policy.yaml"
}
part_imagenette() {
    local seed
    for seed in 0 1 2; do imitating mobilenet_v2-random-$seed --proxy imagenette --method random --seed $seed; done
    imitating mobilenet_v2-sens-imagenette --proxy imagenette --method sensitivity
    imitating mobilenet_v2-sens-cifar --proxy cifar10 --method sensitivity
    imitating mobilenet_v2-asga-cifar --proxy cifar10 --epochs 8 --steps-per-epoch 16 --batch-size 32 --seed 0
    imitating mobilenet_v2-asga-imagenette --proxy imagenette --epochs 8 --steps-per-epoch 8 --batch-size 16 --seed 0
    carried mobilenet_v2-asga-cifar-labels "$RUNS/mbv2/policy.yaml" # the policy that run.sh finds
}

mkdir -p "$RUNS"
for part in "${@:-methods options digits imagenette}"; do for name in $part; do "part_$name"; done; done
