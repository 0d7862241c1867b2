"""ray_cluster.yaml, the KubeRay manifests and the Dockerfile: what can be known without a cloud."""

import importlib
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from cluster.serving.replicas import SERVICE
from tests.testkit.exports import export_small_model
from tests.testkit.runs import REPOSITORY

MANIFESTS = sorted((REPOSITORY / "cluster/kubernetes").glob("*.yaml"))


def launcher() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text())
    return found


def test_the_launcher_file_is_valid_by_rays_own_schema_and_checks() -> None:
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    jsonschema.validate(launcher(), json.loads(schema.read_text()))
    validate_config(prepare_config(launcher()))
    with pytest.raises(jsonschema.ValidationError, match="head_node"):  # a key of old examples
        jsonschema.validate(launcher() | {"head_node": {}}, json.loads(schema.read_text()))


def test_the_head_is_safe_and_runs_no_worker() -> None:
    cluster = launcher()
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"], "a spot machine can be taken away"
    workers = {k: v for k, v in cluster["available_node_types"].items() if k != "head"}
    assert {"GPU" in worker["resources"] for worker in workers.values()} == {True, False}


def test_what_a_user_edits_comes_first() -> None:
    keys = list(launcher())
    assert keys[:5] == [
        *("cluster_name", "max_workers", "provider", "available_node_types"),
        "initialization_commands",  # the shared storage's address
    ]


def test_every_machine_installs_the_pins_has_the_token_and_opens_nothing() -> None:
    cluster = launcher()
    setup = "\n".join(cluster["setup_commands"])
    assert "make install" in setup
    assert "/shared" in setup
    assert "RAY_AUTH_MODE=token" in setup
    assert any(path.endswith(".ray/auth_token") for path in cluster["file_mounts"])
    (start,) = (line for line in cluster["head_start_ray_commands"] if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in start


def ray_clusters(path: Path) -> dict[str, Any]:
    """The cluster's specification, of a RayCluster or within a RayJob."""
    manifest = yaml.safe_load(path.read_text())
    assert manifest["apiVersion"] == "ray.io/v1"
    assert re.fullmatch(r"[a-z0-9-]+", manifest["metadata"]["name"])
    spec: dict[str, Any] = manifest["spec"]
    if manifest["kind"] == "RayJob":
        assert spec["entrypoint"].startswith("python ")
        return dict(spec["rayClusterSpec"])
    if manifest["kind"] == "RayService":
        return dict(spec["rayClusterConfig"])
    assert manifest["kind"] == "RayCluster"
    return spec


def test_there_is_a_cluster_a_job_and_a_service() -> None:
    kinds = {yaml.safe_load(path.read_text())["kind"] for path in MANIFESTS}
    assert kinds == {"RayCluster", "RayJob", "RayService"}


def test_the_service_of_the_manifest_can_be_made(tmp_path: Path) -> None:
    """Ray's own schema takes its configuration, and the function takes its arguments."""
    (path,) = (path for path in MANIFESTS if path.stem == "rayservice")
    config = yaml.safe_load(yaml.safe_load(path.read_text())["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(config).applications
    module, _, name = application.import_path.partition(":")
    make = getattr(importlib.import_module(module), name)
    export_small_model(tmp_path / "model")
    args = application.args | {"pointer": None, "model": str(tmp_path / "model")}
    assert make(args)._bound_deployment.name == SERVICE
    with pytest.raises(ValueError, match="unknown argument 'modle'"):
        make({"modle": "x"})


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_has_what_kuberay_and_we_need(path: Path) -> None:
    cluster = ray_clusters(path)
    assert cluster["rayVersion"] == metadata.version("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    images = set()
    for group in (head, *workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        images.add(container["image"])
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert "persistentVolumeClaim" in volumes[mounts["/shared"]]
    assert len(images) == 1
    for group in workers:
        assert re.fullmatch(r"[a-z]+", group["groupName"])
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_a_jobs_workers_are_as_many_as_its_command_asks_for() -> None:
    (path,) = (path for path in MANIFESTS if path.stem == "rayjob")
    manifest = yaml.safe_load(path.read_text())
    (asked,) = re.findall(r"cluster\.num_workers=(\d+)", manifest["spec"]["entrypoint"])
    (group,) = ray_clusters(path)["workerGroupSpecs"]
    assert group["replicas"] == int(asked)


def test_files_and_folders_that_the_cluster_files_name_are_there() -> None:
    text = "\n".join(
        path.read_text()
        for path in (*MANIFESTS, REPOSITORY / "ray_cluster.yaml", REPOSITORY / "Dockerfile")
    )
    named = set(re.findall(r"\b(?:jobs|docs)/[\w/.]+\w\.(?:py|toml|md)", text))
    assert len(named) >= 4
    assert [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []


def test_the_image_installs_as_everyone_does_and_is_not_root() -> None:
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    text = "\n".join(lines)
    wheel, service, base = (line for line in lines if line.startswith("FROM "))
    assert all(":3.11-" in line for line in (wheel, service, base))
    assert (wheel.split()[-1], service.split()[-2:]) == ("wheel", ["AS", "serve"])
    last = text[text.index(base, text.index(service)) :]
    assert "make install" in last
    assert last.index("USER ray") < last.index("make install")
    of_service = text[text.index(service) :].split("\nFROM ")[0]
    assert of_service.index("USER skiprec") < of_service.index("ENTRYPOINT")
    assert "[serve]" in of_service
    copied = re.findall(r"^COPY (?:--\S+ )*(.*) \S+$", text, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (REPOSITORY / name).exists(), name
