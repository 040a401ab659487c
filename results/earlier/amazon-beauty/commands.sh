#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 81aaa2cd46817d1a528299c896fb290e7946b447
#   git checkout a38490365da7dd1d75435510139c1e51a521aa8b
#   git checkout 724d079f4e534b37cf5a97d628f1f5f4c65ce80c
#   git checkout c47530fc56f0acec52321ed00dbf0fb1bd1adf8c
#   git checkout 16d06800c289cd4d89e6d4f979f54300c77f4973
#   git checkout 63bbd6396a8e9f2a73fcdd94f2a53cafbf4743d5
set -e
python run_recbole_sigma.py benchmark --models=Pop,WindowItemKNN,WindowItemKNN-directed,SIGMA-sparse+ID,SIGMA-sparse+ID+memory,SIGMA-sparse+SID,SIGMA-sparse+SID+memory --dataset=amazon-beauty --data_path=dataset --seeds=2024 --output=results/amazon-beauty
python run_recbole_sigma.py benchmark --models=PackedSASRec-sparse,PackedSASRec-sparse+memory,SIGMA-sparse,SIGMA-sparse+memory,SIGMA-sparse-tasks,SIGMA-sparse-tasks+memory --dataset=amazon-beauty --data_path=dataset --seeds=2024,2025,2026 --output=results/amazon-beauty
