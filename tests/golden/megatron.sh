#!/bin/bash
# The same on each node, from this folder. MEGATRON is a checkout of Megatron-LM; NODE_RANK and MASTER_ADDR
# are set by the cluster where there are several nodes.
set -euo pipefail
cd "$(dirname "$0")"
exec torchrun --nnodes 1 --nproc-per-node 1 \
  --node-rank "${NODE_RANK:-0}" --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" \
  "${MEGATRON:?a checkout of Megatron-LM}/pretrain_gpt.py" \
  --num-layers 2 \
  --hidden-size 32 \
  --ffn-hidden-size 128 \
  --num-attention-heads 2 \
  --seq-length 32 \
  --max-position-embeddings 32 \
  --position-embedding-type learned_absolute \
  --normalization LayerNorm \
  --attention-dropout 0.0 \
  --hidden-dropout 0.0 \
  --init-method-std 0.08 \
  --tokenizer-type NullTokenizer \
  --vocab-size 299 \
  --make-vocab-size-divisible-by 128 \
  --micro-batch-size 4 \
  --global-batch-size 8 \
  --train-iters 156 \
  --optimizer adam \
  --adam-beta1 0.9 \
  --adam-beta2 0.99 \
  --adam-eps 1e-08 \
  --weight-decay 0.1 \
  --clip-grad 1.0 \
  --lr 0.01 \
  --min-lr 0.0 \
  --lr-warmup-iters 14 \
  --lr-warmup-init 0.0006666666666666666 \
  --lr-decay-style WSD \
  --lr-decay-iters 156 \
  --lr-wsd-decay-iters 32 \
  --lr-wsd-decay-style linear \
  --seed 1 \
  --tensor-model-parallel-size 1 \
  --pipeline-model-parallel-size 1 \
  --no-create-attention-mask-in-dataloader \
  --eval-interval 15 \
  --eval-iters 10 \
  --save checkpoints \
  --save-interval 15 \
  --load checkpoints \
  --tensorboard-dir tensorboard \
  --log-interval 1 \
  --log-throughput \
  --exit-signal-handler \
  --bf16 \
  --train-data-path data/train-00000 \
  --valid-data-path data/heldout
