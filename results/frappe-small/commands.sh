#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 7b96b3037aec10cb7fc19f56656d7ddefa2adbcb
set -e
python run_recbole_sigma.py benchmark --models=DeepFM,SSR-static,SSR --dataset=frappe-small --data_path=dataset --output=saved/benchmark/frappe-small --epochs=8 --seeds=2020,2021,2022,2023,2024 --show_progress=False
python run_recbole_sigma.py benchmark --models=DeepFM,FM,SSR-static,SSR --dataset=frappe-small --data_path=dataset --output=saved/benchmark/frappe-small --epochs=8 --train_batch_size=1024 --seeds=2020,2021,2022,2023,2024 --show_progress=False
python run_recbole_sigma.py report --output=saved/benchmark/frappe-small/results.json --publish=results/frappe-small
