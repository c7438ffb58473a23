"""Clusters made with kubeadm: authorities, payloads, init and join inside the machines, etcd's membership."""
