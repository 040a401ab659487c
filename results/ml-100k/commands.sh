#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout cf40d2ff5221e3a57e00ed2584df725d8a8ae22c
set -e
python run_recbole_sigma.py benchmark --models=Pop,WindowItemKNN,WindowItemKNN-directed,SIGMA,SIGMA+memory,PackedSASRec,PackedSASRec+memory --dataset=ml-100k --seeds=2024,2025,2026 --quiet
python run_recbole_sigma.py report --output=saved/benchmark/ml-100k --publish=results/ml-100k
