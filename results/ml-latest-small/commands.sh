#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 8ed6d0a4c446c47ada237d74de419dfb3fb11ecb
set -e
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=ml-latest-small --seeds=2024,2025,2026,2027,2028 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=ml-latest-small --seeds=2024 --models=Pop,WindowItemKNN,WindowItemKNN-directed,NextItemRidge,ClosedForm
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=ml-latest-small --seeds=2027,2028 --models=PackedSASRec,PackedSASRec+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=ml-latest-small --seeds=2024,2025,2026 --models=PackedSASRec,PackedSASRec+memory
python run_recbole_sigma.py report --output=saved/benchmark/ml-latest-small --publish=results/ml-latest-small
