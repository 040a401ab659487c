#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 489c931a3b388cc04ecd9a08f39cf87161513991
set -e
python run_recbole_sigma.py benchmark --models=SORT,SORT-plain,DIN,DIEN --dataset=amazon-beauty --data_path=dataset --judged_by=labels --label_rows=gpsd '--load_col={inter: [user_id, item_id, timestamp]}' --epochs=10 --stopping_step=2 --train_batch_size=512 --seeds=2024,2025 --reference=SORT --quiet --output=saved/benchmark/gpsd-scratch-amazon-beauty
python run_recbole_sigma.py report --output=saved/benchmark/gpsd-scratch-amazon-beauty --reference=SORT --publish=results/gpsd-scratch-amazon-beauty
