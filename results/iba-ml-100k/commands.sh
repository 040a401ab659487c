#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 98aeac6d8629c9da5f395bb5d0a4d46eb6c16b15
# Some cells ran with changes that were not committed: +changes in cells.csv.
set -e
python run_recbole_sigma.py benchmark --models=SIGMA,SIGMA-item-gate,SIGMA-ETF --dataset=ml-100k --seeds=2024 --reference=SIGMA --quiet --output=saved/benchmark/iba-ml-100k
python run_recbole_sigma.py report --output=saved/benchmark/iba-ml-100k --reference=SIGMA --publish=results/iba-ml-100k
