"""How and where it runs: the Prefect flow, Ray workers, lineage pages and the `roboscape` command."""
