"""How and where it runs: flow, workers, lineage pages and the `roboscape` command."""
