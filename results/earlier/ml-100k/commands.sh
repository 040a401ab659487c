#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout a38490365da7dd1d75435510139c1e51a521aa8b
#   git checkout c47530fc56f0acec52321ed00dbf0fb1bd1adf8c
#   git checkout 27c01295e6351f70ade22877c9cd684dd7ad496b
#   git checkout 4ef4a3f45538a91c3f97d56baf06d0f4e828aa2e
#   git checkout c47530fc56f0acec52321ed00dbf0fb1bd1adf8c+changes
#   git checkout cd1a60c40a675406283eaa7778b4d8982c54fad8
#   git checkout cf0be69ab3f4d5f22231752bf184c878f3436dcf
#   git checkout 724d079f4e534b37cf5a97d628f1f5f4c65ce80c
#   git checkout 1db0b8ac324dd0fe6f897e62b08e76752659a14e
#   git checkout 5bab41fe5ed70e49c4601b6354aa8324db6b4cfa
set -e
python run_recbole_sigma.py benchmark --models=Pop,WindowItemKNN,WindowItemKNN-directed,BPR-tuned,BPR-tuned+memory,SASRec-BCE,SASRec-BCE+memory,PackedSASRec,PackedSASRec+memory,PackedSASRec-tuned,PackedSASRec-tuned+memory --dataset=ml-100k --seeds=2024,2025,2026 --output=results/ml-100k
python run_recbole_sigma.py benchmark --models=GRU4Rec-30,SASRec-CE-30,SASRec-CE-30+memory,BERT4Rec-30,BERT4Rec-30+memory,TIGER-small,TIGER-small+memory --dataset=ml-100k --seeds=2024 --output=results/ml-100k
python run_recbole_sigma.py benchmark --models=SIGMA,SIGMA+memory,SIGMA-global,SIGMA-global+memory,SIGMA-tasks,SIGMA-tasks+memory,SIGMA-dense,SIGMA-dense+memory --dataset=ml-100k --seeds=2024,2025,2026 --output=results/ml-100k
python run_recbole_sigma.py benchmark --models=SIGMA+no-APF,SIGMA-global+no-APF,SIGMA-global+no-APF+memory,SIGMA-tasks+no-APF,SIGMA-tasks+no-APF+memory,SIGMA-tasks+interest+no-APF,SIGMA-tasks+interest+no-APF+memory --dataset=ml-100k --seeds=2024,2025,2026 --output=results/ml-100k
python run_recbole_sigma.py benchmark --models=Pop,WindowItemKNN,WindowItemKNN-directed,PackedSASRec,SASRec-BCE,BPR-tuned --filter=both --dataset=ml-100k --seeds=2024,2025,2026 --output=results/ml-100k
