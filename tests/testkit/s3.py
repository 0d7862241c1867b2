"""A local S3 server for tests."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote
from uuid import uuid4

import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server() -> Iterator[str]:
    """Runs a server on this machine; yields the URI of a bucket, for `cluster.storage_path`.

    The credentials are in the environment of this process and of the processes that it starts.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = quote(f"http://{host}:{port}", safe="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        options = f"endpoint_override={address}&region=us-east-1&allow_bucket_creation=true"
        yield f"s3://bucket-{uuid4().hex}/runs?{options}"  # Servers of one process share buckets.
    server.stop()
