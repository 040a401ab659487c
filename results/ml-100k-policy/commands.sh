#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 820c4e5beb3f086bdf9b8ebcf602fb70e77512ab
#   git checkout ee1ee6ebf99afb679b8a542ab2049fb29932a77f
set -e
python run_recbole_sigma.py benchmark --models=SIGMA,SIGMA-SFT-longer,SIGMA-GRPO,SIGMA-A2PO,SIGMA-REAL,SIGMA-REAL-BCE,SIGMA-Adv-Sum,SIGMA-Reward-Sum,SIGMA-GRPO-equal,SIGMA-A2PO-cosine,SIGMA-A2PO-random,SIGMA-A2PO-adversary,SIGMA-Adv-Sum-adversary,SIGMA-A2PO-sparse --dataset=ml-100k --seeds=2024,2025,2026 --reference=SIGMA-SFT-longer --output=policy-ml-100k --state=INFO
python run_recbole_sigma.py report --output=policy-ml-100k --reference=SIGMA-SFT-longer --publish=results/ml-100k-policy
