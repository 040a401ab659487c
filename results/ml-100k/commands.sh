#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 45f6db5397a82c24cdd44382124df218ee3b875a
#   git checkout 7aba08f82f6a6dede627f685d24406991ee91d61
set -e
python run_recbole_sigma.py benchmark --models=Pop,WindowItemKNN,WindowItemKNN-directed,HistoryEASE,NextItemRidge,ClosedForm,TGH,TextLinear,SIGMA,SIGMA+memory,PackedSASRec,PackedSASRec+memory --dataset=ml-100k --seeds=2024,2025,2026,2027,2028 --quiet
python run_recbole_sigma.py report --output=saved/benchmark/ml-100k --publish=results/ml-100k
