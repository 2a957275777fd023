"""The manifests, the Compose file and the Dockerfile are well formed, agree with each other, and with the code."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import kubernetes_validate
import pytest
import yaml

from feedback_app import __version__, watch
from feedback_app.factory import _reachable
from feedback_app.metrics import Metrics
from feedback_app.settings import PREFIX, Settings, load_settings
from feedback_app.web.health import health_views
from feedback_app.web.metrics import metrics_views

Manifest = dict[str, Any]

_ROOT = Path(__file__).parents[2]
_KUBERNETES = _ROOT / "deploy" / "kubernetes"
_COMPOSE = _ROOT / "docker-compose.yml"
_DOCKERFILE = (_ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
_PATHS = sorted(path for path in _KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml")
#: Of other projects: their schemas don't come with Kubernetes.
_FOREIGN = {"ServiceMonitor", "ScaledObject"}
#: The oldest that the README promises, and the newest that the package knows.
_VERSIONS = ["1.30", kubernetes_validate.latest_version()]
#: Of a host name, by Linux.
_LONGEST_NAME = 64
_PINNED = re.compile(r"[^:@]+:v?\d+\.\d+[\w.-]*")
_VARIABLES = {PREFIX + name.upper() for name in Settings.model_fields}
_SECRETS = {PREFIX + name.upper() for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)}
_STOP_S = watch._STOP_S + watch._LINGER_S


def load(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def manifests(kind: str) -> list[Manifest]:
    return [manifest for path in _PATHS for manifest in load(path) if manifest["kind"] == kind]


def only(kind: str) -> Manifest:
    (manifest,) = manifests(kind)
    return manifest


def kustomization(folder: str = ".") -> Manifest:
    (found,) = load(_KUBERNETES / folder / "kustomization.yaml")
    return found


def pod() -> Manifest:
    return cast(Manifest, only("StatefulSet")["spec"]["template"])


def container() -> Manifest:
    (found,) = pod()["spec"]["containers"]
    return cast(Manifest, found)


def configured() -> dict[str, str]:
    lines = (_KUBERNETES / "settings.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def of_the_pod() -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container()["env"]}


def compose() -> Manifest:
    (found,) = load(_COMPOSE)
    return found


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """What a worker in a pod reads."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    ca = tmp_path / "ca.crt"
    ca.touch()
    variables = configured() | only("Secret")["stringData"] | of_the_pod()
    for name, value in (variables | {f"{PREFIX}BROKER_CA_FILE": str(ca)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return load_settings()


# Well formed


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("path", _PATHS, ids=lambda path: path.name)
def test_every_manifest_fits_the_schema(path: Path, version: str) -> None:
    for manifest in load(path):
        if manifest["kind"] not in _FOREIGN:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_compose_file_fits_the_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(_COMPOSE)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_manifest_is_applied_but_for_the_example_of_the_secret() -> None:
    applied = {
        _KUBERNETES / folder / name
        for folder in (".", "monitoring", "autoscaling")
        for name in kustomization(folder)["resources"]
    }
    assert {path.resolve() for path in applied} == {path for path in _PATHS if path.name != "secret.example.yaml"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on the PATH")
def test_kubectl_builds_it_with_both_components(tmp_path: Path) -> None:
    copy = shutil.copytree(_KUBERNETES, tmp_path / "kubernetes")
    recipe = (copy / "kustomization.yaml").read_text(encoding="utf-8")
    (copy / "kustomization.yaml").write_text(re.sub(r"^# (components:|  - \w+ +#)", r"\1", recipe, flags=re.MULTILINE))
    built = subprocess.run(["kubectl", "kustomize", copy], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    made = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(built.stdout)}
    assert made.keys() > _FOREIGN
    assert {manifest["metadata"]["namespace"] for manifest in made.values()} == {kustomization()["namespace"]}
    assert "replicas" not in made["StatefulSet"]["spec"]  # KEDA's to say
    (worker,) = made["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert worker["image"] == f"registry.example.com/feedback-app:{__version__}"
    # The name has a hash, and the pod follows it.
    assert worker["envFrom"][0]["configMapRef"]["name"] == made["ConfigMap"]["metadata"]["name"] != "feedback-settings"
    for kind, manifest in made.items():
        if kind not in _FOREIGN:
            kubernetes_validate.validate(manifest, _VERSIONS[-1], strict=True)


# Settings and secrets


@pytest.mark.parametrize(
    "path",
    [_COMPOSE, *sorted(path for path in (_ROOT / "deploy").rglob("*") if path.is_file())],
    ids=lambda path: str(path.relative_to(_ROOT)),
)
def test_only_settings_that_there_are_are_named(path: Path) -> None:
    assert set(re.findall(rf"\b{PREFIX}[A-Z][A-Z_]*", path.read_text(encoding="utf-8"))) <= _VARIABLES


def test_the_settings_of_a_pod_are_taken(settings: Settings) -> None:
    assert {*configured(), *of_the_pod()} <= _VARIABLES
    assert settings.web_token is not None
    assert settings.replication_factor == 3


def test_secrets_are_in_the_secret_alone_and_the_example_has_none() -> None:
    example = only("Secret")
    assert set(example["stringData"]) == _SECRETS
    assert all("replace-me" in value for value in example["stringData"].values())
    assert not _SECRETS & {*configured(), *of_the_pod()}
    sources = container()["envFrom"]
    assert [source["secretRef"]["name"] for source in sources if "secretRef" in source] == [example["metadata"]["name"]]
    names = [generator["name"] for generator in kustomization()["configMapGenerator"]]
    assert [source["configMapRef"]["name"] for source in sources if "configMapRef" in source] == names


def test_no_service_link_is_taken_for_a_setting() -> None:
    """Kubernetes tells pods of Services by ``<NAME>_PORT=tcp://...``, unless a pod does not want to be told."""
    assert pod()["spec"]["enableServiceLinks"] is False
    # The publisher reads the settings too, in pods that are not ours.
    for service in manifests("Service"):
        if service["spec"].get("clusterIP") != "None":
            name = service["metadata"]["name"].upper().replace("-", "_")
            assert not [variable for variable in _VARIABLES if re.match(rf"{name}_(SERVICE|PORT)", variable)]


# Storage


def test_the_data_dir_is_on_the_claim_and_all_else_that_is_written_to_has_a_volume(settings: Settings) -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"] if not mount.get("readOnly")}
    (claim,) = only("StatefulSet")["spec"]["volumeClaimTemplates"]
    assert mounts[str(settings.data_dir)] == claim["metadata"]["name"]
    (scratch,) = [volume for volume in pod()["spec"]["volumes"] if "emptyDir" in volume]
    assert mounts["/tmp"] == scratch["name"]
    assert f"{PREFIX}DATA_DIR={settings.data_dir}\n" in _DOCKERFILE
    assert compose()["services"]["worker"]["environment"][f"{PREFIX}DATA_DIR"] == str(settings.data_dir)
    assert str(settings.data_dir) in compose()["services"]["worker"]["volumes"]


def test_certificates_are_where_the_settings_look_for_them() -> None:
    volumes = {volume["name"]: volume for volume in pod()["spec"]["volumes"]}
    (mount,) = [mount for mount in container()["volumeMounts"] if mount.get("readOnly")]
    assert Path(configured()[f"{PREFIX}BROKER_CA_FILE"]).parent == Path(mount["mountPath"])
    assert volumes[mount["name"]]["secret"]["optional"] is True


# The web port


def test_ports_agree(settings: Settings) -> None:
    port = Settings.model_fields["web_port"].default
    assert settings.web_port == port
    assert [(found["name"], found["containerPort"]) for found in container()["ports"]] == [("http", port)]
    assert re.findall(r"^EXPOSE (\d+)$", _DOCKERFILE, re.MULTILINE) == [str(port)]
    assert f"'{PREFIX}WEB_PORT', '{port}'" in _DOCKERFILE
    worker = compose()["services"]["worker"]
    assert worker["environment"][f"{PREFIX}WEB_PORT"] == str(port)
    assert [mapping.rpartition(":")[2] for mapping in worker["ports"]] == [str(port)]
    (job,) = load(_ROOT / "deploy" / "prometheus" / "prometheus.yml")[0]["scrape_configs"]
    assert [found["port"] for found in job["dns_sd_configs"]] == [port]
    for service in manifests("Service"):
        assert [found["targetPort"] for found in service["spec"]["ports"]] == ["http"]
    assert [found["port"] for rule in only("NetworkPolicy")["spec"]["ingress"] for found in rule["ports"]] == ["http"]


def test_probes_ask_the_right_pages_and_have_patience() -> None:
    views = health_views(cast(Any, None), cast(Any, None), cast(Any, None))
    probes = {name: container()[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    asked = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    # A restore may take minutes, in which a worker is alive and not ready.
    assert asked == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    assert set(asked.values()) <= views.keys()
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"http"}
    # Before the web port is opened, the broker and the database are waited for, and modules are loaded.
    assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 60
    assert probes["liveness"]["periodSeconds"] * probes["liveness"]["failureThreshold"] >= 20
    assert all(probe["timeoutSeconds"] >= 5 for probe in probes.values())
    assert re.findall(r"/health/\w+", _DOCKERFILE) == ["/health/live"]


def test_a_worker_has_the_time_that_it_takes_to_stop() -> None:
    assert _STOP_S < 10  # what is said in the manifest
    kind, number = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert kind == "sleep"
    assert pod()["spec"]["terminationGracePeriodSeconds"] > int(number) + 10
    assert seconds(compose()["services"]["worker"]["stop_grace_period"]) > 10


def test_workers_are_reached_by_the_name_that_they_tell(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stateful = only("StatefulSet")
    named = stateful["spec"]["serviceName"]
    (headless,) = [service for service in manifests("Service") if service["spec"].get("clusterIP") == "None"]
    assert headless["metadata"]["name"] == named
    assert headless["spec"]["publishNotReadyAddresses"] is True
    assert pod()["spec"]["setHostnameAsFQDN"] is True
    name = f"{stateful['metadata']['name']}-0.{named}.{kustomization()['namespace']}.svc.cluster.local"
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert _reachable(settings.web_host) == name


@pytest.mark.parametrize("path", ["README.md", "kustomization.yaml"])
def test_it_is_said_how_long_the_name_of_the_namespace_may_be(path: str) -> None:
    stateful = only("StatefulSet")
    without = f"{stateful['metadata']['name']}-99.{stateful['spec']['serviceName']}..svc.cluster.local"
    room = _LONGEST_NAME - len(without)
    assert len(kustomization()["namespace"]) <= room
    assert f"at most {room} characters" in (_KUBERNETES / path).read_text(encoding="utf-8")


# Images and rights


def test_images_have_a_version() -> None:
    images = re.findall(r"^FROM (\S+)", _DOCKERFILE, re.MULTILINE)
    images += [service["image"] for service in compose()["services"].values() if "image" in service]
    images.append(container()["image"])
    assert len(images) >= 7
    assert [image for image in images if _PINNED.fullmatch(image) is None] == []
    assert container()["image"] == f"feedback-app:{__version__}"
    assert [(image["name"], image["newTag"]) for image in kustomization()["images"]] == [("feedback-app", __version__)]


def test_nothing_runs_as_root_or_may_do_more_than_it_has_to() -> None:
    (user,) = re.findall(r"^USER (\S+)$", _DOCKERFILE, re.MULTILINE)
    uid, gid = map(int, user.split(":"))
    assert uid > 0 < gid
    assert f"groupadd --gid {gid} " in _DOCKERFILE
    assert f"useradd --uid {uid} " in _DOCKERFILE
    rights = pod()["spec"]["securityContext"]
    assert rights["runAsNonRoot"] is True
    assert (rights["runAsUser"], rights["runAsGroup"], rights["fsGroup"]) == (uid, gid, gid)
    assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["spec"]["automountServiceAccountToken"] is False
    assert container()["resources"]["limits"]["memory"] == container()["resources"]["requests"]["memory"]


# Selectors


def test_selectors_match_the_pods() -> None:
    labels = pod()["metadata"]["labels"]
    rules = only("NetworkPolicy")["spec"]["ingress"]
    # The first that may come in are the other workers.
    peers = rules[0]["from"][0]
    assert peers.keys() == {"podSelector"}
    selectors = [
        only("StatefulSet")["spec"]["selector"]["matchLabels"],
        only("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        peers["podSelector"]["matchLabels"],
        *[constraint["labelSelector"]["matchLabels"] for constraint in pod()["spec"]["topologySpreadConstraints"]],
        *[service["spec"]["selector"] for service in manifests("Service")],
    ]
    assert selectors == [labels] * len(selectors)


def test_an_eviction_leaves_a_worker() -> None:
    assert only("PodDisruptionBudget")["spec"]["maxUnavailable"] < only("StatefulSet")["spec"]["replicas"]


# Monitoring and scaling


def test_every_pod_is_read_once_with_the_token() -> None:
    monitor = only("ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    (service,) = [service for service in manifests("Service") if wanted <= service["metadata"]["labels"].items()]
    assert service["spec"]["clusterIP"] == "None"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] in metrics_views(Metrics())
    secret = endpoint["authorization"]["credentials"]
    assert secret == {"name": only("Secret")["metadata"]["name"], "key": f"{PREFIX}WEB_TOKEN"}
    (job,) = load(_ROOT / "deploy" / "prometheus" / "prometheus.yml")[0]["scrape_configs"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": job["job_name"]}]


def test_scaling_ends_at_the_number_of_partitions() -> None:
    partitions = int(configured()[f"{PREFIX}PARTITIONS"])
    scaled, replicas = only("ScaledObject")["spec"], only("StatefulSet")["spec"]["replicas"]
    assert scaled["scaleTargetRef"]["kind"] == "StatefulSet"
    assert scaled["scaleTargetRef"]["name"] == only("StatefulSet")["metadata"]["name"]
    assert replicas <= partitions
    assert replicas == scaled["minReplicaCount"] <= scaled["maxReplicaCount"] <= partitions
    assert kustomization("autoscaling")["patches"][0]["target"]["name"] == only("StatefulSet")["metadata"]["name"]


def test_scaling_goes_by_a_metric_that_there_is() -> None:
    (trigger,) = only("ScaledObject")["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    (metric, job) = re.findall(r'(feedback_\w+)\{job="(\w+)"', query)[0]
    operations = (_ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert f"\n| `{metric}` | gauge |" in operations
    assert f"job_name: {job} " in (_ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    # Metrics that are missing must not look like a lag of nothing.
    assert trigger["metadata"]["ignoreNullValues"] == "false"
