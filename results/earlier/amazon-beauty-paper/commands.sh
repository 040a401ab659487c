#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 5bab41fe5ed70e49c4601b6354aa8324db6b4cfa
#   git checkout 16d06800c289cd4d89e6d4f979f54300c77f4973
set -e
python run_recbole_sigma.py benchmark --models=SIGMA,SIGMA-no-APF,SIGMA-top1,SIGMA-ID,SIGMA-SID,SIGMA-no-grounding --dataset=amazon-beauty --data_path=dataset --seeds=2024 --sigma_catalogue_weight=0 --sigma_prefix_pooling=False --sigma_recency=0 --train_batch_size=128 --learning_rate=0.001 --task_label_share=0.2 --epochs=4 --decode_beam=200 --output=results/amazon-beauty-paper
