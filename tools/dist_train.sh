#!/usr/bin/env bash
# Train on several devices: tools/dist_train.sh CONFIG DEVICES [options of tools/train.py].
# NNODES, NODE_RANK, MASTER_ADDR and PORT come from the environment, as in mmdet3d.
set -euo pipefail

config=$1
devices=$2

exec torchrun \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$devices" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
