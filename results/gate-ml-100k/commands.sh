#!/bin/sh
# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.
# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:
#   git checkout 5cddf9c6fa912e50591cee3704433524e50e14f2
set -e
python run_recbole_sigma.py report --output=/tmp/h2t/gate-ml --reference=GateSID-half --publish=results/gate-ml-100k
