#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 8f4f6c3b420f0a55dd1a229847289ca49d47e1d2
#   git checkout a7e9025920c758563561b695d9b457b232dddcc6
set -e
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2024 --models=SIGMA-x3,SIGMA-x3+memory,BSARec-events,BSARec-events+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2024,2025,2026,2027,2028 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2024 --models=Pop,WindowItemKNN,WindowItemKNN-directed,ClosedForm
python run_recbole_sigma.py report --output=saved/benchmark/amazon-beauty --publish=results/amazon-beauty
