"""Serves the flow as a deployment, so that runs can be started and retried from the UI.

`roboscape up` keeps this running: `python -m pipeline.orchestration.deployment`.
"""

from pipeline.settings import Settings, apply_environment

NAME = "local"


def main() -> None:
    apply_environment(Settings())
    from pipeline.orchestration.flow_run import roboscape

    roboscape.serve(
        name=NAME,
        description=roboscape.description,
        pause_on_shutdown=False,
        print_starting_message=False,
    )


if __name__ == "__main__":
    main()
