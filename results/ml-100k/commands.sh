#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout f6755db60ba459b4a56e919edd34653e8289df14
set -e
python run_recbole_sigma.py benchmark --quiet --dataset=ml-100k --seeds=2024,2025,2026,2027,2028 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --quiet --dataset=ml-100k --seeds=2024,2025,2026,2027,2028 --models=Pop,WindowItemKNN,WindowItemKNN-directed,HistoryEASE,NextItemRidge,ClosedForm,TGH,TextLinear,PackedSASRec,PackedSASRec+memory
python run_recbole_sigma.py report --output=saved/benchmark/ml-100k --publish=results/ml-100k
