#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 739ac5f87480a2ede4baa4ab8ea55101633fe182
set -e
python run_recbole_sigma.py benchmark --models=SIGMA,SIGMA-ID,SIGMA-SID,SIGMA-no-grounding,SIGMA-no-KD,SIGMA-no-collaborative,SIGMA-no-taxonomy,SIGMA-no-brand,SIGMA-ID-only,SIGMA-text-only,SIGMA-fusion-MLP,SIGMA-no-APF,SIGMA-top1 --dataset=ml-100k --seeds=2024 --sigma_objective=global --sigma_slot=sum --sigma_score=dot --fusion_norm=False --epochs=6 --output=results/ml-100k-ablations
