#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 489c931a3b388cc04ecd9a08f39cf87161513991
# Some cells ran with changes that were not committed: +changes in cells.csv.
set -e
python run_recbole_sigma.py benchmark --models=GateSID,GateSID-half,GateSID-SID,GateSID-clicks,GateSID-hand,GateSID-concat --dataset=amazon-beauty --data_path=dataset --seeds=2024 --reference=GateSID-half --epochs=6 --valid_users=1000 --stopping_step=2 --quiet --output=saved/benchmark/gate-amazon-beauty
python run_recbole_sigma.py benchmark --models=WindowItemKNN,PackedSASRec-sparse --dataset=amazon-beauty --data_path=dataset --seeds=2024 --quiet --output=saved/benchmark/gate-amazon-beauty
python run_recbole_sigma.py benchmark --models=GateSID,GateSID-half --dataset=amazon-beauty --data_path=dataset --seeds=2025 --reference=GateSID-half --epochs=6 --valid_users=1000 --stopping_step=2 --quiet --output=saved/benchmark/gate-amazon-beauty
python run_recbole_sigma.py report --output=saved/benchmark/gate-amazon-beauty --reference=GateSID-half --publish=results/gate-amazon-beauty
