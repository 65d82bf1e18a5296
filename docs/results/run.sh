#!/usr/bin/env bash
# Every number in README.md beside this file comes from these commands.
#   DATA=folder with cifar10_{train,test}.npz, imagenette_{train,val}.tfrecord, imagenet_samples.tfrecord
#   and the published weights; RUNS=where run folders go.      bash docs/results/run.sh [part ...]
set -euo pipefail
export TFMPQ_DATA_DIR=$DATA
RUNS=${RUNS:-runs}

network() { # short name -> MODEL, WEIGHTS
    case $1 in
        r8) MODEL=resnet8 WEIGHTS=$DATA/cifar10_resnet8_mlperftiny.h5 ;;
        r20) MODEL=resnet20 WEIGHTS=$DATA/cifar10_resnet20_weights.npz ;;
        mbv2) MODEL=mobilenet_v2 WEIGHTS=$DATA/imagenet_mobilenetv2_weights.npz ;;
    esac
}
search() { # network name [option ...]
    network "$1"
    local name=$2
    shift 2
    tfmpq search --model $MODEL --proxy cifar10 --weights "$WEIGHTS" --epochs 1 --out "$RUNS/$name" --json "$@" \
        > "$RUNS/$name.search.json"
}
uniform() { # bits name-of-a-search network: a policy file with these bits everywhere
    { echo "format: tfmpq-policy/1"; echo "model: $(sed -n 's/^model: //p' "$RUNS/$2/policy.yaml")"; echo "layers:"
      sed -n "s/{weight_bits: [0-9]*}/{weight_bits: $1}/p" "$RUNS/$2/policy.yaml"; echo "method: uniform"; } \
        > "$RUNS/$3-u$1.yaml"
}
without_training() { # network name policy images [label and data to evaluate on ...]
    network "$1"
    local name=$2 policy=$3 images=$4 how
    for how in reconstruct no-reconstruct; do
        tfmpq export $MODEL --tflite --weights "$WEIGHTS" --calibrate "$images" --policy "$policy" --$how \
            --out "$RUNS/$name.$how.tflite" --json > "$RUNS/$name.$how.json"
        evaluate "$RUNS/$name.$how" "${@:5}"
    done
}
evaluate() { # file without its ending, label, data, label, data, ...
    local file=$1
    shift
    while (($#)); do
        tfmpq evaluate "$file.tflite" --data "$2" --json > "$file.evaluate-$1.json"
        shift 2
    done
}
finetune() { # network name policy epochs target [option ...]; EVALUATE has labels and data
    network "$1"
    local name=$2 policy=$3 epochs=$4 target=$5
    shift 5
    tfmpq finetune "$policy" --model $MODEL --weights "$WEIGHTS" --target "$target" --epochs "$epochs" --seed 0 \
        --out "$RUNS/$name" --json "$@" > "$RUNS/$name.finetune.json"
    for form in litert storage; do
        tfmpq export "$RUNS/$name" --tflite --target $form --out "$RUNS/$name/$form.tflite" --json \
            > "$RUNS/$name.export-$form.json"
    done
    cp "$RUNS/$name/litert.tflite" "$RUNS/$name.litert.tflite"
    evaluate "$RUNS/$name.litert" "${EVALUATE[@]}"
}

part_cifar10() {
    EVALUATE=(cifar10 cifar10)
    for n in r8 r20; do
        search $n $n-035 --budget size=0.35x --seed 0
        search $n $n-050 --budget size=0.5x --seed 0
        for s in 0 1 2; do search $n $n-random$s --budget size=0.35x --method random --seed $s; done
        search $n $n-sens --budget size=0.35x --method sensitivity --seed 0
        for bits in 4 8; do
            uniform $bits $n-050 $n
            without_training $n $n-u$bits "$RUNS/$n-u$bits.yaml" cifar10 "${EVALUATE[@]}"
        done
        for name in $n-035 $n-050 $n-random{0,1,2} $n-sens; do
            without_training $n $name "$RUNS/$name/policy.yaml" cifar10 "${EVALUATE[@]}"
        done
    done
    finetune r8 r8-035-ft "$RUNS/r8-035/policy.yaml" 4 cifar10
    finetune r8 r8-random0-ft "$RUNS/r8-random0/policy.yaml" 4 cifar10
    finetune r8 r8-050-ft "$RUNS/r8-050/policy.yaml" 4 cifar10
    finetune r8 r8-u4-ft "$RUNS/r8-u4.yaml" 4 cifar10
    finetune r20 r20-035-ft "$RUNS/r20-035/policy.yaml" 3 cifar10
    finetune r20 r20-050-ft "$RUNS/r20-050/policy.yaml" 2 cifar10
    finetune r20 r20-u4-ft "$RUNS/r20-u4.yaml" 2 cifar10
}
part_mobilenet() {
    # `both`: 1,239 of the 1,549 images of imagenet_samples and imagenette_train, without their labels; the other
    # 310 and imagenette_val are not seen. `samples`: 759 of the 949 images of imagenet_samples.
    local both="tfrecord:$DATA/imagen*_[st]*.tfrecord" samples="tfrecord:$DATA/imagenet_samples.tfrecord"
    local tuning=(--batch-size 32 --learning-rate 0.0002 --distill-weight 1)
    search mbv2 mbv2 --budget size=0.5x --target-input 224 --target-classes 1000 --float-epochs 1 \
        --steps-per-epoch 200 --batch-size 64 --seed 0
    uniform 8 mbv2 mbv2
    EVALUATE=(imagenette imagenette unseen "$both")
    without_training mbv2 mbv2-u8 "$RUNS/mbv2-u8.yaml" "$both" "${EVALUATE[@]}"
    without_training mbv2 mbv2 "$RUNS/mbv2/policy.yaml" "$both" "${EVALUATE[@]}"
    finetune mbv2 mbv2-ft "$RUNS/mbv2/policy.yaml" 8 "$both" "${tuning[@]}" --frozen-statistics-epochs 8
    EVALUATE=(imagenette imagenette unseen "$samples")
    without_training mbv2 mbv2-samples "$RUNS/mbv2/policy.yaml" "$samples" "${EVALUATE[@]}"
    finetune mbv2 mbv2-samples-ft "$RUNS/mbv2/policy.yaml" 10 "$samples" "${tuning[@]}" --frozen-statistics-epochs 10
}

mkdir -p "$RUNS"
for part in "${@:-cifar10 mobilenet}"; do for name in $part; do "part_$name"; done; done
