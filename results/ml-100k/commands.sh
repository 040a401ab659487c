#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 3d3d0401028963f866ba1eb22dab8519d17fc0b6
#   git checkout 77d0509163793a641fe5b95425e23b5837005ff4
set -e
python run_recbole_sigma.py benchmark --quiet --dataset=ml-100k --seeds=2024,2025,2026,2027,2028 --models=Pop,WindowItemKNN,WindowItemKNN-directed,HistoryEASE,NextItemRidge,ClosedForm,TGH,TextLinear,SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --quiet --dataset=ml-100k --seeds=2024,2025,2026,2027,2028 --models=PackedSASRec,PackedSASRec+memory
python run_recbole_sigma.py benchmark --quiet --dataset=ml-100k --seeds=2024,2025,2026 --models=SIGMA-x3,SIGMA-x3+memory
python run_recbole_sigma.py benchmark --quiet --dataset=ml-100k --seeds=2024,2025,2026,2027,2028 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py report --output=saved/benchmark/ml-100k --publish=results/ml-100k
