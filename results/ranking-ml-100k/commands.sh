#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 0cbe98623b70b0f61f1b2f30ec8575114404ad28
set -e
python run_recbole_sigma.py benchmark --models=FM,DeepFM,SSR,SSR-static,DCNV2 --dataset=ml-100k --output=saved/benchmark/ranking-ml-100k --seeds=2020,2021,2022,2023,2024 --show_progress=False
python run_recbole_sigma.py report --output=saved/benchmark/ranking-ml-100k/results.json --publish=results/ranking-ml-100k
