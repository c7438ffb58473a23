"""kubeadm's configuration for one machine, as data. Pure: what is written here is decided by the step alone.

The format is kubeadm.k8s.io/v1beta4 (Kubernetes 1.31 and later).
"""

from __future__ import annotations

from typing import Any

import yaml

from bedplate.model.blueprint import ClusterEntry, MachineEntry

API = "kubeadm.k8s.io/v1beta4"
CRI_SOCKET = "unix:///run/containerd/containerd.sock"
DIRECT_PORT = 6443
"""Where API servers listen when the cluster's endpoint is somebody else's load balancer."""
DNS_DOMAIN = "cluster.local"
PATCHES = "/run/bedplate/payload/patches"
TOKEN_MINUTES = 30
"""A join's token is deleted when its node appears; this is for joins that never come to that."""


STATIC_PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


class Pace:
    """How patient everything is. Under software emulation a second of the guest's is a short time."""

    def __init__(self, *, slow: bool) -> None:
        self.slow = slow

    @property
    def timeouts(self) -> dict[str, str]:
        """kubeadm's own waits."""
        if not self.slow:
            return {}
        return {
            "controlPlaneComponentHealthCheck": "10m0s",
            "kubeletHealthCheck": "8m0s",
            "kubernetesAPICall": "3m0s",
            "etcdAPICall": "4m0s",
            "tlsBootstrap": "10m0s",
            "discovery": "10m0s",
        }

    @property
    def lease(self) -> list[dict[str, str]]:
        """Leases of the controller manager and the scheduler."""
        if not self.slow:
            return []
        return arguments(
            {
                "leader-elect-lease-duration": "90s",
                "leader-elect-renew-deadline": "75s",
                "leader-elect-retry-period": "6s",
            }
        )

    @property
    def api_server(self) -> list[dict[str, str]]:
        """Without queues for fairness: their upkeep alone takes a tenth of an emulated core."""
        return arguments({"enable-priority-and-fairness": "false"}) if self.slow else []

    @property
    def etcd(self) -> list[dict[str, str]]:
        """etcd's heartbeats (ms); its own defaults are 100 and 1000."""
        if not self.slow:
            return []
        return arguments({"heartbeat-interval": "500", "election-timeout": "5000", "log-level": "error"})

    @property
    def patches(self) -> dict[str, str]:
        """kubeadm's patches of the static pods, by file name.

        kubeadm has each asked every second whether it is ready, and ended when it is silent for 80 s. A handshake costs
        an emulated core 50 ms and more, and an API server that is ended while it starts only begins anew.
        """
        if not self.slow:
            return {}
        return {f"{pod}0+strategic.yaml": _probes(pod) for pod in STATIC_PODS}

    @property
    def kubelet_flags(self) -> dict[str, str]:
        """How often the kubelet measures containers; its own default is 10 s."""
        return {"housekeeping-interval": "60s"} if self.slow else {}

    @property
    def grace(self) -> str:
        """After how long a silent node counts as lost; Kubernetes' own default is 50 s."""
        return "120s" if self.slow else "50s"


def api_port(cluster: ClusterEntry) -> int:
    """The port at which each machine's own API server listens."""
    return cluster.port if cluster.endpoint_type == "vrrp" else DIRECT_PORT


def init(cluster: ClusterEntry, machine: MachineEntry, token: str, pace: Pace) -> str:
    """The configuration of `kubeadm init`, YAML.

    Args:
        cluster: The cluster.
        machine: Its first control-plane machine.
        token: The bootstrap token that kubeadm makes in any case; see `TOKEN_MINUTES`.
        pace: How patient it is.
    """
    first: dict[str, Any] = {
        "apiVersion": API,
        "kind": "InitConfiguration",
        "bootstrapTokens": [
            {
                "token": token,
                "description": token_description(machine.uid),
                "ttl": f"{TOKEN_MINUTES}m0s",
                "usages": ["authentication", "signing"],
                "groups": ["system:bootstrappers:kubeadm:default-node-token"],
            }
        ],
        "localAPIEndpoint": {"advertiseAddress": machine.nic.address, "bindPort": api_port(cluster)},
        "nodeRegistration": _registration(machine, pace),
    }
    if pace.timeouts:
        first["timeouts"] = pace.timeouts
    if pace.patches:
        first["patches"] = {"directory": PATCHES}
    return _documents(first, _cluster(cluster, pace), _kubelet(pace), _proxy(cluster))


def join(cluster: ClusterEntry, machine: MachineEntry, token: str, ca_hash: str, pace: Pace) -> str:
    """The configuration of `kubeadm join`, YAML. `ca_hash`: `sha256:<hex>` of the cluster's authority."""
    configuration: dict[str, Any] = {
        "apiVersion": API,
        "kind": "JoinConfiguration",
        "discovery": {
            "bootstrapToken": {
                "token": token,
                "apiServerEndpoint": endpoint(cluster),
                "caCertHashes": [ca_hash],
            }
        },
        "nodeRegistration": _registration(machine, pace),
    }
    if machine.role == "control-plane":
        local = {"advertiseAddress": machine.nic.address, "bindPort": api_port(cluster)}
        configuration["controlPlane"] = {"localAPIEndpoint": local}
    if pace.timeouts:
        configuration["timeouts"] = pace.timeouts
    if pace.patches and machine.role == "control-plane":
        configuration["patches"] = {"directory": PATCHES}
    return _documents(configuration)


def token_description(machine: str) -> str:
    """By what a bootstrap token of ours is known, for its deletion once that machine is a node."""
    return f"bedplate {machine}"


def endpoint(cluster: ClusterEntry) -> str:
    """`host:port` of the cluster's address."""
    host = f"[{cluster.endpoint}]" if ":" in cluster.endpoint else cluster.endpoint
    return f"{host}:{cluster.port}"


def arguments(values: dict[str, str]) -> list[dict[str, str]]:
    """Arguments as v1beta4 takes them."""
    return [{"name": name, "value": value} for name, value in values.items()]


def _probes(pod: str) -> str:
    patient: dict[str, Any] = {
        "livenessProbe": {"periodSeconds": 30, "timeoutSeconds": 60, "failureThreshold": 20},
        "startupProbe": {"periodSeconds": 15, "timeoutSeconds": 60, "failureThreshold": 60},
    }
    if pod != "kube-controller-manager":  # kubeadm gives it no readiness probe
        patient["readinessProbe"] = {"periodSeconds": 10, "timeoutSeconds": 60}
    return yaml.safe_dump({"spec": {"containers": [{"name": pod, **patient}]}})


def _registration(m: MachineEntry, pace: Pace) -> dict[str, Any]:
    labels = ",".join(f"{name}={value}" for name, value in m.node_labels)
    extra = {"node-ip": m.nic.address, "provider-id": f"bedplate://{m.uid}", **pace.kubelet_flags}
    if labels:
        extra["node-labels"] = labels
    if m.role == "control-plane":
        taints = [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
    else:
        taints = [_taint(text) for text in m.node_taints]
    return {
        "name": m.name,
        "criSocket": CRI_SOCKET,
        "imagePullPolicy": "IfNotPresent",
        "taints": taints,
        "kubeletExtraArgs": arguments(extra),
        # How large a machine is, its user decides; kubeadm would refuse less than 2 CPUs and 1700 MB.
        "ignorePreflightErrors": ["NumCPU", "Mem"],
    }


def _taint(text: str) -> dict[str, str]:
    """From `key=value:Effect`."""
    rest, _, effect = text.rpartition(":")
    name, _, value = rest.partition("=")
    return {"key": name, "effect": effect} | ({"value": value} if value else {})


def _cluster(c: ClusterEntry, pace: Pace) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "ClusterConfiguration",
        "clusterName": c.cluster.partition("/")[2],
        "kubernetesVersion": f"v{c.version}",
        "controlPlaneEndpoint": endpoint(c),
        "networking": {"podSubnet": c.pod_cidr, "serviceSubnet": c.service_cidr, "dnsDomain": DNS_DOMAIN},
        "apiServer": {"certSANs": [c.endpoint], "extraArgs": pace.api_server},
        "controllerManager": {
            "extraArgs": [*pace.lease, *arguments({"node-monitor-grace-period": pace.grace})],
        },
        "scheduler": {"extraArgs": pace.lease},
        "etcd": {"local": {"extraArgs": pace.etcd}},
        "certificateValidityPeriod": "8760h0m0s",
        # Signing with RSA 2048 costs some 30 times as much, at every handshake of every probe.
        "encryptionAlgorithm": "ECDSA-P256",
    }


def _kubelet(pace: Pace) -> dict[str, Any]:
    found: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "systemd",
        "resolvConf": "/run/systemd/resolve/resolv.conf",
        # Its serving certificate is signed by the cluster's authority, so that `kubectl logs` can be sure of it.
        "serverTLSBootstrap": True,
        "rotateCertificates": True,
    }
    if pace.slow:
        found["nodeStatusReportFrequency"] = "1m0s"
        found["nodeLeaseDurationSeconds"] = 80
        found["runtimeRequestTimeout"] = "5m0s"
        found["nodeStatusUpdateFrequency"] = "30s"
        found["syncFrequency"] = "5m0s"
        found["volumeStatsAggPeriod"] = "10m0s"
        # Without thresholds nothing is measured for them, which every 10 s takes a fifth of an emulated core.
        found["evictionHard"] = dict.fromkeys(
            ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree"),
            "0%",
        )
        found["localStorageCapacityIsolation"] = False
    return found


def _proxy(c: ClusterEntry) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": c.pod_cidr,
    }


def _documents(*documents: dict[str, Any]) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False)
