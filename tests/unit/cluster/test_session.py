"""RAY_ADDRESS: what is no address of a Ray is refused at once, by the variable's name."""

import pytest

from cluster.machine.session import ray_session
from tests.testkit.nodes import free_port


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "http://127.0.0.1:8265",
            "is the address of a job server; .*ray job submit --address",
        ),
        ("garbage", "RAY_ADDRESS=garbage is no address; expected host:port"),
        (":6379", "RAY_ADDRESS=:6379 is no address"),
        ("127.0.0.1:port", "RAY_ADDRESS=127.0.0.1:port is no address"),
        ("127.0.0.1:{free}", "no Ray answers at RAY_ADDRESS=127.0.0.1:"),
        ("ray://127.0.0.1:{free}", "no Ray answers at RAY_ADDRESS=ray://127.0.0.1:"),
    ],
)
def test_a_wrong_address(address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address.format(free=free_port()))
    with pytest.raises(ValueError, match=message):
        with ray_session():
            pass
