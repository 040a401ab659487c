"""One evaluator for every model: ranked lists under one policy into RecBole's top-k metrics."""
