#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 3afb1f3de6031e452b70d28f980b3bb3865fda1a
#   git checkout 3d3d0401028963f866ba1eb22dab8519d17fc0b6
#   git checkout 77d0509163793a641fe5b95425e23b5837005ff4
set -e
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2024,2025,2026,2027,2028 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2024 --models=SIGMA-x3,SIGMA-x3+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2024 --models=Pop,WindowItemKNN,WindowItemKNN-directed,ClosedForm
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2024 --models=BSARec-events,BSARec-events+memory
python run_recbole_sigma.py report --output=saved/benchmark/amazon-beauty --publish=results/amazon-beauty
