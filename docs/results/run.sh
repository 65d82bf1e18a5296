#!/usr/bin/env bash
# Every number in README.md beside this file comes from these commands.
#   DATA=folder with cifar10_{train,test}.npz, imagenette_{train,val}.tfrecord, imagenet_samples.tfrecord
#   and the published weights; RUNS=where run folders go.      bash docs/results/run.sh [part ...]
set -euo pipefail
export TFMPQ_DATA_DIR=$DATA
RUNS=${RUNS:-runs}
W8=$DATA/cifar10_resnet8_mlperftiny.h5
W20=$DATA/cifar10_resnet20_weights.npz
WMB=$DATA/imagenet_mobilenetv2_weights.npz

search() { # folder model weights budget
    tfmpq search --model "$2" --proxy cifar10 --weights "$3" --budget "size=$4" --epochs 1 --seed 0 \
        --out "$RUNS/$1" --json > "$RUNS/$1.search.json"
}
finetune() { # folder epochs source [option ...]
    local out=$1 epochs=$2 source=$3
    shift 3
    tfmpq finetune "$source" --target cifar10 --epochs "$epochs" --learning-rate 0.02 --seed 0 "$@" \
        --out "$RUNS/$out" --json > "$RUNS/$out.finetune.json"
}
files() { # folder data
    local data=$2
    for form in litert storage; do
        tfmpq export "$RUNS/$1" --tflite --target $form --out "$RUNS/$1/$form.tflite" --json \
            > "$RUNS/$1.export-$form.json"
        tfmpq evaluate "$RUNS/$1/$form.tflite" --data "$data" --json > "$RUNS/$1.evaluate-$form.json"
    done
}
uniform() { # bits folder-of-a-search -> policy file with these bits everywhere
    mkdir -p "$RUNS"
    { echo "format: tfmpq-policy/1"; echo "model: $(sed -n 's/^model: //p' "$RUNS/$2/policy.yaml")"; echo "layers:"
      sed -n "s/{weight_bits: [0-9]*}/{weight_bits: $1}/p" "$RUNS/$2/policy.yaml"; echo "method: uniform"; } \
        > "$RUNS/$2.uniform$1.yaml"
    echo "$RUNS/$2.uniform$1.yaml"
}

part_resnet20() {
    search r20-035 resnet20 "$W20" 0.35x; finetune r20-035 8 "$RUNS/r20-035"; files r20-035 cifar10
    search r20-050 resnet20 "$W20" 0.5x;  finetune r20-050 4 "$RUNS/r20-050"; files r20-050 cifar10
    finetune r20-u4 4 "$(uniform 4 r20-050)" --model resnet20 --weights "$W20"; files r20-u4 cifar10
    finetune r20-int8 0 "$(uniform 8 r20-050)" --model resnet20 --weights "$W20"; files r20-int8 cifar10
}
part_resnet8() {
    search r8-035 resnet8 "$W8" 0.35x; finetune r8-035 10 "$RUNS/r8-035"; files r8-035 cifar10
    search r8-050 resnet8 "$W8" 0.5x;  finetune r8-050 6 "$RUNS/r8-050"; files r8-050 cifar10
    finetune r8-u4 6 "$(uniform 4 r8-050)" --model resnet8 --weights "$W8"; files r8-u4 cifar10
    finetune r8-int8 0 "$(uniform 8 r8-050)" --model resnet8 --weights "$W8"; files r8-int8 cifar10
}
part_mobilenet() {
    tfmpq search --model mobilenet_v2 --proxy cifar10 --weights "$WMB" --budget size=0.5x --target-input 224 \
        --target-classes 1000 --float-epochs 1 --epochs 1 --steps-per-epoch 200 --batch-size 64 --seed 0 \
        --out "$RUNS/mbv2" --json > "$RUNS/mbv2.search.json"
    # 759 of the 949 sample images, without their labels; the other 190 and Imagenette are never seen.
    tfmpq finetune "$RUNS/mbv2" --target "tfrecord:$DATA/imagenet_samples.tfrecord" --weights "$WMB" --epochs 30 \
        --batch-size 32 --learning-rate 0.01 --distill-weight 1 --seed 0 \
        --out "$RUNS/mbv2-imagenet" --json > "$RUNS/mbv2-imagenet.finetune.json"
    tfmpq finetune "$(uniform 8 mbv2)" --target imagenette --model mobilenet_v2 --weights "$WMB" --epochs 0 \
        --batch-size 32 --seed 0 --out "$RUNS/mbv2-int8" --json > "$RUNS/mbv2-int8.finetune.json"
    for run in mbv2-imagenet mbv2-int8; do
        files $run imagenette
        for split in test all; do
            tfmpq evaluate "$RUNS/$run/litert.tflite" --data "tfrecord:$DATA/imagenet_samples.tfrecord" --split $split \
                --json > "$RUNS/$run.evaluate-samples-$split.json"
        done
    done
}

mkdir -p "$RUNS"
for part in "${@:-resnet20 resnet8 mobilenet}"; do for name in $part; do "part_$name"; done; done
