#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 1d61d3e69c854c3d0983ed0d546ed137ee54b7b1
#   git checkout 668ba92e7059cf81386a3044076eac607870ba1a
#   git checkout fe1a6beb58e2b6fa7efd1c6c68814948d370a3ac
set -e
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2024 --models=ClosedForm,WindowItemKNN,WindowItemKNN-directed,Pop
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2024 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2026 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2025 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2027 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2028 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2024 --models=SIGMA-x3
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2024 --models=BSARec-events,BSARec-events+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2025 --models=BSARec-events,BSARec-events+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2026 --models=BSARec-events,BSARec-events+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2027 --models=BSARec-events,BSARec-events+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-sports --seeds=2028 --models=BSARec-events,BSARec-events+memory
python run_recbole_sigma.py report --output=saved/benchmark/amazon-sports --publish=results/amazon-sports
