"""Files: stores of arrays and results, data sources, weights. Knows no stage and no network."""
