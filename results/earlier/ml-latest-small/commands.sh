#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 724d079f4e534b37cf5a97d628f1f5f4c65ce80c
#   git checkout c47530fc56f0acec52321ed00dbf0fb1bd1adf8c
#   git checkout 1db0b8ac324dd0fe6f897e62b08e76752659a14e
set -e
python run_recbole_sigma.py benchmark --models=Pop,WindowItemKNN,WindowItemKNN-directed,PackedSASRec,PackedSASRec+memory,SIGMA-global,SIGMA-global+memory,SIGMA-tasks,SIGMA-tasks+memory,SIGMA-dense,SIGMA-dense+memory --dataset=ml-latest-small --data_path=dataset --seeds=2024,2025,2026 --output=results/ml-latest-small
