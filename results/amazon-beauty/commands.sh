#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 5e0b58cc2cf634f1be0c740be601110694d23465
set -e
python run_recbole_sigma.py benchmark --models=Pop,WindowItemKNN,WindowItemKNN-directed,HistoryEASE,NextItemRidge,ClosedForm,TGH,TextLinear,SIGMA,SIGMA+memory --dataset=amazon-beauty --data_path=dataset --seeds=2024,2025,2026,2027,2028 --quiet
python run_recbole_sigma.py report --output=saved/benchmark/amazon-beauty --publish=results/amazon-beauty
