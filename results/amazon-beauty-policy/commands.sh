#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 489c931a3b388cc04ecd9a08f39cf87161513991
set -e
python run_recbole_sigma.py benchmark --models=SIGMA,SIGMA-SFT-longer,SIGMA-GRPO,SIGMA-A2PO,SIGMA-REAL,SIGMA-Adv-Sum --dataset=amazon-beauty --data_path=dataset --seeds=2024 --reference=SIGMA-SFT-longer --output=saved/benchmark/amazon-beauty-policy --state=INFO
python run_recbole_sigma.py report --output=saved/benchmark/amazon-beauty-policy --reference=SIGMA-SFT-longer --publish=results/amazon-beauty-policy
