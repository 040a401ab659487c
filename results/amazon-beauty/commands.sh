#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout cf40d2ff5221e3a57e00ed2584df725d8a8ae22c
# Some cells ran with changes that were not committed: +changes in cells.csv.
set -e
python run_recbole_sigma.py benchmark --models=Pop,WindowItemKNN,WindowItemKNN-directed,SIGMA,SIGMA+memory --dataset=amazon-beauty --data_path=dataset --seeds=2024,2025,2026 --quiet
python run_recbole_sigma.py report --output=saved/benchmark/amazon-beauty --publish=results/amazon-beauty
