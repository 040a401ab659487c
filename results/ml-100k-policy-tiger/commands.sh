#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 489c931a3b388cc04ecd9a08f39cf87161513991
set -e
python run_recbole_sigma.py benchmark --models=TIGER,TIGER-SFT-longer,TIGER-GRPO,TIGER-A2PO --dataset=ml-100k --seeds=2024 --reference=TIGER-SFT-longer --MAX_ITEM_LIST_LENGTH=20 --tiger_layers=2 --tiger_decoder_layers=2 --tiger_d_model=64 --tiger_heads=4 --tiger_d_kv=16 --tiger_d_ff=256 --tokenizer_levels=2 --tokenizer_codebook_size=64 --tiger_samples=all --learning_rate=0.002 --epochs=5 --train_warmup_epochs=1 --eval_step=1 --stopping_step=5 --output=saved/benchmark/ml-100k-policy-tiger --state=INFO
python run_recbole_sigma.py benchmark --models=TIGER,TIGER-SFT-longer,TIGER-GRPO,TIGER-A2PO --dataset=ml-100k --seeds=2025 --reference=TIGER-SFT-longer --MAX_ITEM_LIST_LENGTH=20 --tiger_layers=2 --tiger_decoder_layers=2 --tiger_d_model=64 --tiger_heads=4 --tiger_d_kv=16 --tiger_d_ff=256 --tokenizer_levels=2 --tokenizer_codebook_size=64 --tiger_samples=all --learning_rate=0.002 --epochs=5 --train_warmup_epochs=1 --eval_step=1 --stopping_step=5 --output=saved/benchmark/ml-100k-policy-tiger --state=INFO
python run_recbole_sigma.py report --output=saved/benchmark/ml-100k-policy-tiger --reference=TIGER-SFT-longer --publish=results/ml-100k-policy-tiger
