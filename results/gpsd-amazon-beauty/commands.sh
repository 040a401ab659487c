#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 3c0ca667105e173ac34c16fa3860be602587eb11
# Some cells ran with changes that were not committed: +changes in cells.csv.
set -e
python run_recbole_sigma.py --model=PackedSASRec --config_files=gpsd_pretrain --dataset=amazon-beauty --data_path=dataset
python run_recbole_sigma.py export --checkpoint=latest --output=vectors
python run_recbole_sigma.py benchmark --models=SORT,SORT-frozen,SORT-transfer,SORT-GPSD,SORT-plain-GPSD,PackedSASRec,DIN --dataset=amazon-beauty --data_path=dataset --judged_by=labels --label_rows=gpsd '--load_col={inter: [user_id, item_id, timestamp]}' --epochs=10 --stopping_step=2 --train_batch_size=512 --seeds=2024,2025 --reference=SORT --quiet --output=saved/benchmark/gpsd-amazon-beauty
python run_recbole_sigma.py report --output=saved/benchmark/gpsd-amazon-beauty --reference=SORT --publish=results/gpsd-amazon-beauty
