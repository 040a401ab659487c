#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout c99543afd699efe59d4f3dbf4ed2fe7526763f0e
set -e
python run_recbole_sigma.py benchmark --models=SIGMA,SIGMA-ID,SIGMA-SID,SIGMA-no-grounding,SIGMA-no-KD,SIGMA-no-collaborative,SIGMA-no-taxonomy,SIGMA-no-brand,SIGMA-ID-only,SIGMA-text-only,SIGMA-fusion-MLP,SIGMA-no-APF,SIGMA-top1 --dataset=amazon-beauty --data_path=dataset --config_files=properties/recipes/sigma_ablation.yaml --seeds=2024 --output=results/amazon-beauty-ablations
