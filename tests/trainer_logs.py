"""Logs as public trainers print them, each with the rows that it gives: N, D, nats per token, annealed, eval set."""

TORCHTUNE = """Step 1 | loss:9.5 lr:2e-5 tokens_per_second_per_gpu:1234.5 grad_norm:1.1
Step 100 | loss:3.25 lr:2e-5 tokens_per_second_per_gpu:1234.5 grad_norm:1.1
"""
NANOCHAT = """Vocab size: 65,536
Parameter counts:
lm_head                 : 83,886,080
total                   : 560,988,160
Total number of training tokens: 11,219,763,200
Total batch size 524,288 => gradient accumulation steps: 1
Step 00000 | Validation bpb: 3.3013
step 00000/21400 (0.00%) | loss: 11.090339 | lrm: 1.00 | dt: 12.3ms | tok/sec: 1,234 | bf16_mfu: 45.1 | total time: 0.00m
step 21399/21400 (100.00%) | loss: 2.651234 | lrm: 0.05 | dt: 12.3ms | tok/sec: 1,234 | bf16_mfu: 45.1 | total time: 99.00m
Step 21400 | Validation bpb: 0.8123
"""
OLMO = """[2024-04-17 09:40:26] INFO     [train:120, rank=0] Total number of parameters: 1,176,764,416
[2024-04-17 09:40:26] INFO     [train:121, rank=0] Number of non-embedding parameters: 1,073,741,824
[2024-04-17 09:42:26] INFO     [olmo.train:816, rank=0] [step=1/1000]
    train/CrossEntropyLoss=11.25
    throughput/total_tokens=4,194,304
[2024-04-17 09:42:38] INFO     [olmo.train:816, rank=0] [step=1000/1000,epoch=0]
    train/CrossEntropyLoss=3.21
    throughput/total_tokens=4,194,304,000
[2024-04-17 09:42:38] INFO     [olmo.train:816, rank=0] [eval_step=1/10]
[2024-04-17 09:42:39] INFO     [olmo.train:816, rank=0] eval
    eval/c4_en-validation/CrossEntropyLoss=3.302
    eval/c4_en-validation/Perplexity=27.2
"""
OLMO_CORE = """2025-01-01 host:0 olmo_core.train.callbacks.console_logger:100 INFO [step=500/1000,epoch=1,eta=0:01:00]
    optim/LR (group 0)=0.0001
    train/CE loss=4.1
    throughput/total tokens=2,097,152,000
"""
LITGPT = """Total parameters: 1,100,048,384
Epoch 1 | iter 80 step 10 | loss train: 9.812, val: n/a | iter time: 123.4 ms (step) remaining time: 1 day, 2:03:04
iter 800: val loss 4.5123, val time: 1234.50 ms
iter 8000: val loss 3.1123, val time: 1234.50 ms
"""
FAIRSEQ = """2021-01-01 00:00:00 | INFO | fairseq_cli.train | Namespace(activation_fn='relu', max_update=50000, max_tokens=2048)
2021-01-01 00:00:00 | INFO | fairseq_cli.train | num. shared model params: 247,123,456 (num. trained: 247,123,456)
2021-01-01 00:00:00 | INFO | train_inner | epoch 001:    100 / 1000 loss=10.5, ppl=1448.15, wpb=65536, num_updates=100
2021-01-01 00:00:00 | INFO | valid | epoch 001 | valid on 'valid' subset | loss 5.301 | ppl 39.43 | wpb 2048 | num_updates 1000
2021-01-01 00:00:00 | INFO | valid | epoch 050 | valid on 'valid' subset | loss 4.000 | ppl 16 | wpb 2048 | num_updates 50000
"""
FAIRSEQ_JSON = """[14:37:14,1][fairseq_cli.train][INFO] - num. shared model params: 247,123,456 (num. trained: 247,123,456)
[14:37:14,1][train_inner][INFO] - {"epoch": 3, "loss": "8.9", "nll_loss": "8", "wpb": "28200", "num_updates": "300"}
14:37:14 | INFO | valid | {"epoch": 3, "valid_loss": "8.7", "valid_nll_loss": "8", "valid_ppl": "256", "valid_num_updates": "400"}
"""
LEVANTER = """2025-01-01 - 0 - levanter - INFO :: Progress on:train 5.00kit/10.0kit rate:34.5s/it elapsed:17:46 postfix:loss=3.61
2025-01-01 - 0 - levanter.eval - eval.py:123 - INFO :: eval loss: 3.656
2025-01-01 - 0 - levanter.eval - eval.py:123 - INFO :: paloma/c4_en loss: 3.2
"""
TORCHTITAN = (
    "[rank0]:[titan] - root - INFO - Model llama3 8B size: 8,030,261,248 total parameters\n"
    "[rank0]:[titan] - root - INFO - Trainer is initialized with local batch size 8, global batch size 64, gradient accumulation "
    "steps 1, sequence length 2048, total steps 1000 (warmup 200)\n"
    "[rank0]:[titan] - root - INFO - \x1b[31mstep:  1  \x1b[32mloss: 12.2721  \x1b[33mgrad_norm:  4.0  \x1b[36mmemory: 27.1GiB\n"
    "[rank0]:[titan] - root - INFO - validate step: 1000  loss:  3.3721  memory: 27.1GiB(28.56%)  tps: 1,234\n"
)
LN_2 = 0.6931471805599453

LOGS = {  # text, what --columns gives, rows
    "torchtune": (
        TORCHTUNE, "params=1.2B,batch_tokens=0.5M", [(1.2e9, 5e5, 9.5, False, ""), (1.2e9, 5e7, 3.25, True, "")],
    ),
    "nanochat": (
        NANOCHAT, "", [(560988160, 524288, 11.090339, False, ""), (560988160, 11219763200, 2.651234, True, "")],
    ),
    "OLMo": (OLMO, "", [(1176764416, 4194304000, 3.302, True, "c4_en-validation")]),
    "OLMo-core": (OLMO_CORE, "params=1B", [(1e9, 2097152000, 4.1, False, "")]),
    "litgpt": (
        LITGPT, "batch_tokens=524288",
        [(1100048384, 100 * 524288, 4.5123, False, ""), (1100048384, 1000 * 524288, 3.1123, True, "")],
    ),
    "fairseq": (
        FAIRSEQ, "",
        [(247123456, 1000 * 65536, 5.301 * LN_2, False, ""), (247123456, 50000 * 65536, 4 * LN_2, True, "")],
    ),
    "fairseq JSON": (FAIRSEQ_JSON, "", [(247123456, 400 * 28200, 8 * LN_2, True, "")]),
    "Levanter": (LEVANTER, "params=120M,batch_tokens=1M", [(1.2e8, 5e9, 3.656, False, "")]),
    "torchtitan": (TORCHTITAN, "", [(8030261248, 1000 * 64 * 2048, 3.3721, True, "")]),
}  # fmt: skip

LITGPT_CSV = """epoch,iter,iter_time,learning_rate,loss,remaining_time,step,tokens,total_tokens,val_loss,val_ppl
0,80,0.1,0.0001,9.8,100.0,79,655360,5242880,,
,,,,,,799,,,4.5123,91.1
0,8000,0.1,0.0001,3.2,100.0,7999,65536000,524288000,,
,,,,,,7999,,,3.1123,22.5
"""
