#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout ef2b41a6791be979cb900aaa38c0466436aa10c7
set -e
python run_recbole_sigma.py benchmark --models=FM,DeepFM,ImplicitRM,ImplicitRM-click,ImplicitRM-popularity,ImplicitRM-swapped,ImplicitRM-IPS,ImplicitRM-relevance --dataset=coat-clicks --data_path=dataset --output=saved/benchmark/coat-clicks --reference=ImplicitRM-click --seeds=2020,2021,2022,2023,2024 --show_progress=False
python run_recbole_sigma.py report --output=saved/benchmark/coat-clicks --reference=ImplicitRM-click --publish=results/coat-clicks
