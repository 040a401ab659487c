#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 489c931a3b388cc04ecd9a08f39cf87161513991
# Some cells ran with changes that were not committed: +changes in cells.csv.
set -e
python run_recbole_sigma.py benchmark --models=GateSID,GateSID-clicks,GateSID-SID,GateSID-half,GateSID-hand,GateSID-concat,WindowItemKNN --dataset=ml-100k --seeds=2024 --reference=GateSID-half --quiet --output=saved/benchmark/gate-ml-100k
python run_recbole_sigma.py report --output=saved/benchmark/gate-ml-100k --reference=GateSID-half --publish=results/gate-ml-100k
