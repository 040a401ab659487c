#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 489c931a3b388cc04ecd9a08f39cf87161513991
set -e
python run_recbole_sigma.py benchmark --models=SIGMA,SIGMA-SFT-longer,SIGMA-GRPO,SIGMA-A2PO,SIGMA-REAL --dataset=ml-100k --seeds=2024,2025,2026 --reference=SIGMA-SFT-longer --epochs=2 --train_warmup_epochs=1 --output=saved/benchmark/ml-100k-policy-light --state=INFO
python run_recbole_sigma.py report --output=saved/benchmark/ml-100k-policy-light --reference=SIGMA-SFT-longer --publish=results/ml-100k-policy-light
