"""docker/compose.yaml: who gets which secret."""

import yaml
from repository import ROOT

SERVICES = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]


def holders(name: str) -> set[str]:
    """Services whose environment has it; each must take it from the user's, or not start."""
    found = {service: each["environment"].get(name) for service, each in SERVICES.items()}
    assert all(value is None or ":?" in value for value in found.values()), found
    return {service for service, value in found.items() if value}


def test_the_server_asks_for_the_login_that_its_clients_have():
    assert holders("PREFECT_SERVER_API_AUTH_STRING") == {"prefect"}
    assert holders("PREFECT_API_AUTH_STRING") == {"deployment", "driver"}
    origins = SERVICES["prefect"]["environment"]["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"]
    assert origins == "http://localhost:4200,http://127.0.0.1:4200"


def test_ray_and_those_who_use_it_have_its_token():
    assert holders("RAY_AUTH_TOKEN") == {"ray-head", "ray-worker", "deployment", "driver"}


def test_ports_are_published_on_loopback_only():
    ports = [port for each in SERVICES.values() for port in each.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
