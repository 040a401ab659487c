#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 059ccb7f465aa0ee5cd21ae3c8bd41da66d67889
set -e
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2024 --models=PackedSASRec-sparse,PackedSASRec-sparse+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2024,2025,2026,2027,2028 --models=Pop,WindowItemKNN,WindowItemKNN-directed,HistoryEASE,NextItemRidge,ClosedForm,TGH,TextLinear
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2024 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py report --output=saved/benchmark/amazon-sports --publish=results/amazon-sports
