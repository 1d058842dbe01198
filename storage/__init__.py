"""Arrays, tables and results at rest: no stage, no network training, no Prefect and no Ray."""
