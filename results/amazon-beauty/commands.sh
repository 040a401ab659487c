#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 1d61d3e69c854c3d0983ed0d546ed137ee54b7b1
#   git checkout fe1a6beb58e2b6fa7efd1c6c68814948d370a3ac
# Some cells ran with changes that were not committed: +changes in cells.csv.
set -e
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2024 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2024 --models=BSARec-events,BSARec-events+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2025 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2026 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2027 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2028 --models=SIGMA,SIGMA+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2024 --models=Pop,WindowItemKNN,WindowItemKNN-directed,ClosedForm
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2025 --models=BSARec-events,BSARec-events+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2026 --models=BSARec-events,BSARec-events+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2027 --models=BSARec-events,BSARec-events+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2024 --models=PackedSASRec-sparse,PackedSASRec-sparse+memory
python run_recbole_sigma.py benchmark --data_path=dataset --quiet --dataset=amazon-beauty --seeds=2028 --models=BSARec-events,BSARec-events+memory
python run_recbole_sigma.py report --output=saved/benchmark/amazon-beauty --publish=results/amazon-beauty
