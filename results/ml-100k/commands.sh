#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 8f4f6c3b420f0a55dd1a229847289ca49d47e1d2
#   git checkout a7e9025920c758563561b695d9b457b232dddcc6
set -e
python run_recbole_sigma.py benchmark --quiet --dataset=ml-100k --seeds=2024,2025,2026,2027,2028 --models=Pop,WindowItemKNN,WindowItemKNN-directed,HistoryEASE,NextItemRidge,ClosedForm,TGH,TextLinear,PackedSASRec,PackedSASRec+memory,SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --quiet --dataset=ml-100k --seeds=2024,2025,2026 --models=SIGMA-x3,SIGMA-x3+memory
python run_recbole_sigma.py report --output=saved/benchmark/ml-100k --publish=results/ml-100k
