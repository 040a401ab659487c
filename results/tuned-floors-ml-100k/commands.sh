#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 5e0b58cc2cf634f1be0c740be601110694d23465
set -e
python run_recbole_sigma.py benchmark --models=ClosedForm:results/tune/ClosedForm-ml-100k.yaml,NextItemRidge:results/tune/NextItemRidge-ml-100k.yaml,TGH:results/tune/TGH-ml-100k.yaml,TextLinear:results/tune/TextLinear-ml-100k.yaml,ClosedForm,NextItemRidge,TGH,TextLinear --dataset=ml-100k --seeds=2024 --output=saved/benchmark/tuned-ml-100k --quiet
python run_recbole_sigma.py report --output=saved/benchmark/tuned-ml-100k --publish=results/tuned-floors-ml-100k
